"""The request for a response, as a type, and what the engine is asked for it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgephi.chat.tools.function import MOST_FUNCTIONS
from edgephi.runtime.options import Options
from edgephi.server.engine.messages import Ask
from edgephi.server.openai.chat.tools import AskedTools, asked_tools
from edgephi.server.openai.request import Tokens, unsupported
from edgephi.server.openai.response_format import ANY_OBJECT, text_of_schema
from edgephi.server.openai.responses.input_items import InputItem
from edgephi.server.refusal import Refusal

_LOGPROBS = "message.output_text.logprobs"


class TextFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the text must look like: anything, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the text is to be written."""

    format: TextFormat | None = None
    verbosity: str | None = None


class ResponseStreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing is obfuscated here, asked for or not."""

    include_obfuscation: bool | None = None


class ResponseRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """POST /v1/responses."""

    input: str | Annotated[list[InputItem], Meta(min_length=1)]
    model: str | None = None
    instructions: str | None = None
    previous_response_id: Annotated[str, Meta(max_length=100)] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    max_output_tokens: Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    include: list[str] | None = None
    text: TextConfig | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=MOST_FUNCTIONS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    service_tier: str | None = None
    background: bool | None = None
    conversation: Any = None
    max_tool_calls: int | None = None
    prompt: Any = None
    reasoning: Any = None
    truncation: str | None = None


UNSUPPORTED_IN_RESPONSES: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "conversation": (),
    "max_tool_calls": (),
    "prompt": (),
    "reasoning": ({}, {"effort": "none"}),
    "truncation": ("disabled",),
}
"""Members that are refused, and the values besides null that change nothing and are let through."""


def refuse_unsupported_in_responses(request: ResponseRequest) -> None:
    """Raise Refusal for what would change the response and is not offered."""
    for name, harmless in UNSUPPORTED_IN_RESPONSES.items():
        value = getattr(request, name)
        if isinstance(value, dict):  # clients send all members of their own types
            value = {key: each for key, each in value.items() if each is not None}
        if value is not None and value not in harmless:
            raise unsupported(f"{name} is not supported by this server; leave it out", name)
    others = [name for name in request.include or () if name != _LOGPROBS]
    if others:
        raise unsupported(f"{others[0][:100]!r} cannot be included by this server", "include")
    if request.text is not None and request.text.verbosity not in (None, "medium"):
        raise unsupported("verbosity is not supported by this server; leave it out", "text.verbosity")
    if request.stream_options is not None and not request.stream:
        raise Refusal(400, "expected stream to be true with stream_options", param="stream_options")


def response_ask(
    request: ResponseRequest,
    number: int,
    messages: tuple[dict[str, Any], ...],
    *,
    context: int,
    system: str | None,
    adapter: str,
) -> Ask:
    """What the engine is asked to go on from `messages`, behind the request's instructions. Raises Refusal.

    `system` is the message for requests that bring none.
    """
    if request.instructions is not None:
        system = request.instructions
    elif any(message["role"] == "system" for message in messages):
        system = None
    if system:
        messages = ({"role": "system", "content": system}, *messages)
    tools = response_tools(request)
    scored = request.top_logprobs is not None or _LOGPROBS in (request.include or ())
    options = Options(
        max_tokens=min(request.max_output_tokens or context, context),
        temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else request.top_p,
        logprobs=(request.top_logprobs or 0) if scored else None,
        json_schema=_schema(request.text),
        adapter=adapter or None,
    )
    return Ask(
        number,
        options,
        messages=messages,
        tools=tools.tools,
        tool_choice=tools.choice,
        parallel_tool_calls=tools.parallel,
    )


def response_tools(request: ResponseRequest) -> AskedTools:
    """The functions that may be called, in the words of chats. Raises Refusal."""
    tools = []
    for place, tool in enumerate(request.tools or ()):
        if tool.get("type") != "function":
            raise unsupported(
                f"tools of the type {str(tool.get('type'))[:100]!r} are not supported by this server",
                f"tools[{place}].type",
            )
        function = {name: value for name, value in tool.items() if name != "type" and value is not None}
        tools.append({"type": "function", "function": function})
    choice = request.tool_choice
    if isinstance(choice, dict):
        if choice.get("type") != "function":
            raise unsupported(
                f"a choice of the type {str(choice.get('type'))[:100]!r} is not supported by this server",
                "tool_choice",
            )
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    return asked_tools(tools, choice, parallel=request.parallel_tool_calls)


def _schema(text: TextConfig | None) -> str | None:
    """The JSON schema, as text, that the answer must follow; None when it is free."""
    if text is None or text.format is None or text.format.type == "text":
        return None
    if text.format.type == "json_object":
        return ANY_OBJECT
    if text.format.schema is None:
        raise Refusal(400, "expected schema with the type 'json_schema'", param="text.format.schema")
    return text_of_schema(text.format.schema, "text.format.schema")
