"""The request for a completion, as a type, and what the engine is asked for it."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from edgephi.server.engine.messages import Ask
from edgephi.server.openai.request import Request, options, refuse_unsupported
from edgephi.server.refusal import Refusal

_COMPLETION_TOKENS = 16  # of the API; a chat's answer has no limit of its own


class CompletionRequest(Request, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """POST /v1/completions: text that is continued, without the chat's template."""

    prompt: str | list[Any]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


def completion_ask(request: CompletionRequest, number: int, *, context: int, adapter: str = "") -> Ask:
    """What the engine is asked. Raises Refusal."""
    refuse_unsupported(request)
    prompt = request.prompt
    if isinstance(prompt, list):
        if len(prompt) != 1 or not isinstance(prompt[0], str):
            raise Refusal(400, "expected one text as prompt: no list of them, no token ids", param="prompt")
        prompt = prompt[0]
    if not prompt:
        raise Refusal(400, "expected a prompt, found an empty one", param="prompt")
    max_tokens = min(request.max_tokens or _COMPLETION_TOKENS, context)
    how = options(request, max_tokens=max_tokens, logprobs=request.logprobs, adapter=adapter)
    return Ask(number, how, text=prompt)
