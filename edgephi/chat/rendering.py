"""Jinja's rendering of a chat template, with all that transformers gives to one.

Sandboxed: a template is part of a bundle or checkpoint, which are data and must not run code. But without
limits of time and memory: see `edgephi.chat.template` for templates of strangers.

Source: `utils/chat_template_utils.py` of transformers, whose templates these are.
"""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError, BadInputError, EdgephiError

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

_HINT = f"copy the bundle again and check it with `{edgephi_command('verify')}`"


def render_chat(
    template: str,
    messages: Sequence[dict[str, Any]],
    variables: Mapping[str, str] | None = None,
    *,
    tools: Sequence[Any] | None = None,
    answer_follows: bool = True,
    most_letters: int | None = None,
    where: str = "bundle.json: chat",
) -> str:
    """The prompt of a conversation, ready for the model's answer; or the text of a whole one, without that.

    `variables` are what the tokenizer's configuration gives to the template, such as `bos_token`; `tools` are
    JSON schemas of functions. Raises BadInputError when the template refuses the conversation in its own
    words, and BadBundleError when it cannot be rendered, or to no more than `most_letters`.
    """
    with _translated(f"{where}: expected a template that renders the prompt"):
        # Without members that are null, as transformers does: templates ask whether there is one.
        told = [{key: value for key, value in each.items() if value is not None} for each in messages]
        written, length = [], 0
        for piece in (
            _environment()
            .from_string(template)
            .generate(
                # None where there is none, as in transformers: templates ask `if tools is not none`.
                {**(variables or {}), "messages": told, "tools": tools, "documents": None},
                add_generation_prompt=answer_follows,
            )
        ):
            written.append(piece)
            length += len(piece)
            if most_letters is not None and length > most_letters:
                raise ValueError(f"more than {most_letters} letters")
        return "".join(written)


def _environment() -> ImmutableSandboxedEnvironment:
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks for training what an assistant has said, and writes just that."""

        tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers writes it; Jinja's own escapes what HTML would take for itself."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: object) -> None:
    raise BadInputError(
        f"the model's chat template refuses this conversation: {' '.join(str(message)[:200].split())}",
        hint="the model was not trained on conversations like this one: write it in another way",
    )


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Jinja's exceptions, and those of what a template computes, become ours."""
    try:
        yield
    except (MemoryError, EdgephiError):
        raise  # says nothing about the template; is ours
    except Exception as cause:
        found = " ".join(str(cause).split()) or type(cause).__name__
        raise BadBundleError(f"{doing}, found: {found}", hint=_HINT) from cause
