"""The request for a chat, as a type, and what the engine is asked for it."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from edgephi.chat.tools.function import MOST_FUNCTIONS
from edgephi.server.engine.messages import Ask
from edgephi.server.images.asked import AskedImages
from edgephi.server.openai.chat.messages import Message, plain_message
from edgephi.server.openai.chat.tools import AskedTools, asked_functions, asked_tools
from edgephi.server.openai.request import Request, Tokens, options, refuse_unsupported
from edgephi.server.refusal import Refusal


class ChatRequest(Request, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=MOST_FUNCTIONS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[dict[str, Any]], Meta(max_length=MOST_FUNCTIONS)] | None = None
    function_call: str | dict[str, Any] | None = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    moderation: Any = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


def chat_ask(
    request: ChatRequest,
    number: int,
    images: AskedImages,
    *,
    context: int,
    system: str | None,
    adapter: str = "",
) -> Ask:
    """What the engine is asked; `images` takes those of the messages.

    `system` is the message for requests that bring none. Raises Refusal.
    """
    refuse_unsupported(request)
    limits = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(limits) > 1:
        raise Refusal(
            400,
            f"expected one of max_tokens and max_completion_tokens, found {request.max_tokens} and "
            f"{request.max_completion_tokens}",
            param="max_tokens",
        )
    messages = tuple(plain_message(message, i, images) for i, message in enumerate(request.messages))
    if system and not any(message["role"] == "system" for message in messages):
        messages = ({"role": "system", "content": system}, *messages)
    if request.top_logprobs is not None and not request.logprobs:
        raise Refusal(400, "expected logprobs to be true with top_logprobs", param="top_logprobs")
    how = options(
        request,
        max_tokens=min(limits.pop() or context, context) if limits else context,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        adapter=adapter,
    )
    tools = _tools(request)
    return Ask(
        number,
        how,
        messages=messages,
        tools=tools.tools,
        tool_choice=tools.choice,
        parallel_tool_calls=tools.parallel,
    )


def _tools(request: ChatRequest) -> AskedTools:
    if not request.functions:
        return asked_tools(request.tools, request.tool_choice, parallel=request.parallel_tool_calls)
    if request.tools:
        raise Refusal(400, "expected tools or functions, found both", param="functions")
    return asked_functions(request.functions, request.function_call)
