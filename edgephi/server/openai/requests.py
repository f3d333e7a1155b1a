"""The requests of OpenAI's API that are understood here, as types, and what the engine is asked for each.

The types check every member's kind and range and describe themselves in /openapi.json. A member that is not
known is refused: an option that is silently ignored is the worst kind of bug. So is one that is known and
would change the answer, but is not offered here (UNSUPPORTED), unless it has the value that changes nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from edgephi.runtime.options import Options
from edgephi.server.engine.messages import Ask
from edgephi.server.refusal import Refusal

ANY_OBJECT = '{"type":"object"}'
_SEEDS = 1 << 31  # the engines' seeds have so many values
_LARGEST_SCHEMA_BYTES = 1 << 16
_DEEPEST_SCHEMA = 32
_MOST_TOKENS = 1 << 24  # more than any vocabulary has
_COMPLETION_TOKENS = 16  # of the API; a chat's answer has no limit of its own

Tokens = Annotated[int, Meta(ge=1, description="The most tokens of the answer")]
Stop = Annotated[str, Meta(min_length=1, max_length=1000)]
Stops = Annotated[list[Stop], Meta(max_length=4)]
Number = Annotated[float, Meta(ge=-2, le=2)]


class ContentPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a message. Only text is read."""

    type: str
    text: str | UnsetType = UNSET
    image_url: Any = UNSET
    input_audio: Any = UNSET
    file: Any = UNSET
    refusal: Any = UNSET


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message of a conversation. "developer" is what newer models call "system"."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None
    function_call: Any = None
    audio: Any = None
    annotations: list[Any] | None = None


class JsonSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The schema that an answer must be valid against."""

    name: Annotated[str, Meta(min_length=1, max_length=64)] = "answer"
    schema: dict[str, Any] = {}
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an answer must look like: anything, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`include_usage` adds a last chunk with the numbers of tokens."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Request(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What both kinds of request have in common."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, description="0: all tokens. Not of OpenAI's API")] | None = None
    seed: int | None = None
    stop: Stop | Stops | None = None
    n: int | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    logit_bias: dict[str, float] | None = None
    user: str | None = None


class ChatRequest(Request, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    function_call: Any = None
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


class CompletionRequest(Request, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """POST /v1/completions: text that is continued, without the chat's template."""

    prompt: str | list[Any]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "moderation": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "store": (False,),
    "echo": (False,),
    "suffix": ("",),
}
"""Members that are refused, and the values besides null that change nothing and are let through."""

UNSUPPORTED_IN_MESSAGES = ("tool_calls", "tool_call_id", "function_call", "audio", "annotations")
ROLES = ("system", "developer", "user", "assistant")


def chat_ask(
    request: ChatRequest, number: int, *, context: int, system: str | None, adapter: str = ""
) -> Ask:
    """What the engine is asked. `system` is the message for requests that bring none. Raises Refusal."""
    _refuse_unsupported(request)
    limits = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(limits) > 1:
        raise Refusal(
            400,
            f"expected one of max_tokens and max_completion_tokens, found {request.max_tokens} and "
            f"{request.max_completion_tokens}",
            param="max_tokens",
        )
    messages = tuple(_plain(message, i) for i, message in enumerate(request.messages))
    if system and not any(message["role"] == "system" for message in messages):
        messages = ({"role": "system", "content": system}, *messages)
    if request.top_logprobs is not None and not request.logprobs:
        raise Refusal(400, "expected logprobs to be true with top_logprobs", param="top_logprobs")
    options = _options(
        request,
        max_tokens=min(limits.pop() or context, context) if limits else context,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        json_schema=_schema(request.response_format),
        adapter=adapter,
    )
    return Ask(number, options, messages=messages)


def completion_ask(request: CompletionRequest, number: int, *, context: int, adapter: str = "") -> Ask:
    """What the engine is asked. Raises Refusal."""
    _refuse_unsupported(request)
    prompt = request.prompt
    if isinstance(prompt, list):
        if len(prompt) != 1 or not isinstance(prompt[0], str):
            raise Refusal(400, "expected one text as prompt: no list of them, no token ids", param="prompt")
        prompt = prompt[0]
    if not prompt:
        raise Refusal(400, "expected a prompt, found an empty one", param="prompt")
    max_tokens = min(request.max_tokens or _COMPLETION_TOKENS, context)
    options = _options(request, max_tokens=max_tokens, logprobs=request.logprobs, adapter=adapter)
    return Ask(number, options, text=prompt)


def _options(
    request: Request,
    *,
    max_tokens: int,
    logprobs: int | None,
    adapter: str,
    json_schema: str | None = None,
) -> Options:
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    return Options(
        max_tokens=max_tokens,
        temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=50 if request.top_k is None else min(request.top_k, _MOST_TOKENS),
        seed=None if request.seed is None else request.seed % _SEEDS,
        stop=stop,
        logprobs=logprobs,
        json_schema=json_schema,
        adapter=adapter or None,
    )


def _refuse_unsupported(request: Request) -> None:
    for name, harmless in UNSUPPORTED.items():
        value = getattr(request, name, None)
        if value is not None and value not in harmless:
            raise _unsupported(f"{name} is not supported by this server; leave it out", name)
    if request.stream_options is not None and not request.stream:
        raise Refusal(400, "expected stream to be true with stream_options", param="stream_options")


def _plain(message: Message, position: int) -> dict[str, str]:
    """A message as the chat template takes it."""
    place = f"messages[{position}]"
    for name in UNSUPPORTED_IN_MESSAGES:
        if getattr(message, name):
            raise _unsupported(f"{name} is not supported by this server", f"{place}.{name}")
    if message.role not in ROLES:
        raise _unsupported(
            f"tools are not supported by this server, found a message of the role {message.role!r}",
            f"{place}.role",
        )
    content = message.content
    if content is None:
        if message.role != "assistant":
            raise Refusal(400, "expected text, found no content", param=f"{place}.content")
        content = message.refusal or ""
    if not isinstance(content, str):
        for part in content:
            if part.type not in ("text", "refusal") or not isinstance(part.text, str):
                raise _unsupported(
                    f"expected parts of the type 'text', found {part.type!r}: this model reads text only",
                    f"{place}.content",
                )
        # On lines of their own, as vLLM and llama.cpp join them: the last word of one is none with the next.
        content = "\n".join(part.text for part in content if isinstance(part.text, str))
    return {"role": "system" if message.role == "developer" else message.role, "content": content}


def _unsupported(message: str, param: str) -> Refusal:
    return Refusal(400, message, param=param, code="unsupported_parameter")


def _schema(format_: ResponseFormat | None) -> str | None:
    """The JSON schema, as text, that an answer must follow; None when it is free."""
    if format_ is None or format_.type == "text":
        return None
    if format_.type == "json_object":
        return ANY_OBJECT
    place = "response_format.json_schema"
    if format_.json_schema is None:
        raise Refusal(400, "expected json_schema with the type 'json_schema'", param=place)
    if _depth(format_.json_schema.schema) > _DEEPEST_SCHEMA:
        raise Refusal(400, f"expected a schema of at most {_DEEPEST_SCHEMA} levels", param=place)
    text = msgspec.json.encode(format_.json_schema.schema).decode()
    if len(text) > _LARGEST_SCHEMA_BYTES:
        raise Refusal(400, f"expected a schema of at most {_LARGEST_SCHEMA_BYTES} bytes", param=place)
    return text


def _depth(value: Any) -> int:
    """Levels of lists and objects inside each other, without recursion: the data is a stranger's."""
    depth, level = 0, [value]
    while level and len(level) < _LARGEST_SCHEMA_BYTES:  # each takes two bytes: the next check finds it
        depth += 1
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
    return depth
