"""A conversation as a checkpoint writes it: its messages in the form of its chat template."""

from collections.abc import Sequence


def render_conversation(template: str, messages: Sequence[dict[str, str]]) -> str:
    """A whole conversation by a template of edgephi's own, which is Jinja; its last turn is the end."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # The same settings as in transformers, whose templates these are.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(messages=list(messages), add_generation_prompt=False)
