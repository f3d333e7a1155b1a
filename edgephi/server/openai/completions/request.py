"""The request for a completion, as a type, and what the engine is asked for it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from edgephi.server.engine.messages import Ask, Prompt
from edgephi.server.openai.request import Request, options, refuse_unsupported
from edgephi.server.refusal import Refusal

_COMPLETION_TOKENS = 16  # of the API; a chat's answer has no limit of its own
_MOST_PROMPTS = 128  # of one request

TokenId = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]


class CompletionRequest(Request, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """POST /v1/completions: texts that are continued or scored, without the chat's template.

    `prompt` is a text, the tokens of one, or a list of texts or of tokens.
    """

    prompt: str | list[str | TokenId | list[TokenId]]
    max_tokens: Annotated[int, Meta(ge=0, description="0 with `echo`: nothing but the text")] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


def completion_ask(request: CompletionRequest, number: int, *, context: int, adapter: str = "") -> Ask:
    """What the engine is asked. Raises Refusal."""
    refuse_unsupported(request)
    max_tokens = _COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens
    if max_tokens == 0 and not request.echo:
        raise Refusal(400, "expected max_tokens of at least 1 without echo, found 0", param="max_tokens")
    how = options(
        request, max_tokens=max(1, min(max_tokens, context)), logprobs=request.logprobs, adapter=adapter
    )
    return Ask(
        number, how, prompts=_prompts(request.prompt), echo=bool(request.echo), only_echo=max_tokens == 0
    )


def _prompts(given: str | list[str | int | list[int]]) -> tuple[Prompt, ...]:
    """The texts of a request. Raises Refusal."""
    if isinstance(given, str):
        prompts = [Prompt(given)]
    elif given and all(isinstance(each, int) for each in given):
        prompts = [Prompt(tokens=tuple(each for each in given if isinstance(each, int)))]
    else:
        texts = [Prompt(each) for each in given if isinstance(each, str)]
        prompts = texts or [Prompt(tokens=tuple(each)) for each in given if isinstance(each, list)]
        if len(prompts) != len(given):
            raise _wrong("a text, a list of tokens, or a list of texts or of tokens", "a mixture")
    if not prompts or any(not (prompt.text or prompt.tokens) for prompt in prompts):
        raise _wrong("a prompt", "an empty one")
    if len(prompts) > _MOST_PROMPTS:
        raise _wrong(f"at most {_MOST_PROMPTS} prompts", str(len(prompts)))
    return tuple(prompts)


def _wrong(expected: str, found: str) -> Refusal:
    return Refusal(400, f"expected {expected}, found {found}", param="prompt")
