"""The requests of Ollama's API, as types, and what the engine is asked for each.

A member that is not known is ignored, and an option too, as Ollama does: its clients send those of all its
versions. What would change the answer and is not offered is refused all the same.

Source: Ollama's `docs/api.md` and `api/types.go`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgephi.chat.tools.function import MOST_FUNCTIONS
from edgephi.runtime.options import LEAST_REPETITION_PENALTY, MOST_REPETITION_PENALTY, Options
from edgephi.server.engine.messages import Ask, Prompt
from edgephi.server.images.asked import AskedImages
from edgephi.server.openai.chat.tools import asked_tools
from edgephi.server.openai.response_format import ANY_OBJECT, text_of_schema
from edgephi.server.refusal import Refusal

_SEEDS = 1 << 31
_MOST_TOKENS = 1 << 24
_MOST_STOPS = 16
_MOST_IMAGES = 1000

Format = Literal["", "json"] | dict[str, Any]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Repetition = Annotated[float, Meta(ge=LEAST_REPETITION_PENALTY, le=MOST_REPETITION_PENALTY)]


# With a point too: Ollama reads every number as one with a point, and cuts off what is behind it.
Whole = int | float


class ModelOptions(msgspec.Struct, frozen=True):
    """How an answer is drawn. `num_predict` below 1: as many tokens as the context leaves; `top_k`: all."""

    num_predict: Whole | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_k: Whole | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Whole | None = None
    stop: str | Annotated[list[str], Meta(max_length=_MOST_STOPS)] | None = None
    repeat_penalty: Repetition | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None


class CalledByName(msgspec.Struct, frozen=True):
    """The function of a call, whose arguments are an object."""

    name: str
    arguments: dict[str, Any] = {}


class ToolUse(msgspec.Struct, frozen=True):
    """A call of a function, as a message has it."""

    function: CalledByName
    id: str | None = None


Images = Annotated[list[str], Meta(max_length=_MOST_IMAGES, description="Each in base64")]


class OllamaMessage(msgspec.Struct, frozen=True):
    """A message of a conversation. What a model has thought is not read again."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: Images | None = None
    tool_calls: list[ToolUse] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaRequest(msgspec.Struct, kw_only=True, frozen=True):
    """What both kinds of request have in common. `keep_alive` is read by nobody: the model stays."""

    model: Annotated[str, Meta(min_length=1)]
    stream: bool | None = None
    format: Format | None = None
    options: ModelOptions | None = None
    keep_alive: str | float | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


class OllamaChatRequest(OllamaRequest, kw_only=True, frozen=True):
    """POST /api/chat. Without messages, the model is only to be loaded."""

    messages: list[OllamaMessage] | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=MOST_FUNCTIONS)] | None = None


class GenerateRequest(OllamaRequest, kw_only=True, frozen=True):
    """POST /api/generate: one prompt, in the chat's form or, `raw`, as it is."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    suffix: str | None = None
    template: str | None = None
    context: list[int] | None = None
    images: Images | None = None


class ShowRequest(msgspec.Struct, frozen=True):
    """POST /api/show. Older clients say `name`."""

    model: str = ""
    name: str = ""
    verbose: bool | None = None


def chat_ask(
    request: OllamaChatRequest,
    number: int,
    images: AskedImages,
    *,
    context: int,
    system: str | None,
    adapter: str,
) -> Ask:
    """What the engine is asked; `images` takes those of the messages.

    `system` is the message for requests that bring none. Raises Refusal.
    """
    _refuse_thinking(request)
    messages = tuple(
        _plain(message, f"messages[{place}]", images) for place, message in enumerate(request.messages or ())
    )
    if system and not any(message["role"] == "system" for message in messages):
        messages = ({"role": "system", "content": system}, *messages)
    tools = asked_tools(request.tools, None, parallel=True)
    options = _options(request, context, adapter)
    return Ask(number, options, messages=messages, tools=tools.tools, parallel_tool_calls=tools.parallel)


def generate_ask(
    request: GenerateRequest,
    number: int,
    images: AskedImages,
    *,
    context: int,
    system: str | None,
    adapter: str,
) -> Ask:
    """What the engine is asked; `images` takes those of the request. Raises Refusal."""
    _refuse_thinking(request)
    for name in ("suffix", "template", "context"):
        if getattr(request, name):
            raise _not_offered(name)
    prompt = request.prompt or ""
    options = _options(request, context, adapter)
    if request.raw:
        if request.images:
            raise Refusal(
                400, "expected no images with raw, which says how the whole prompt reads", param="images"
            )
        return Ask(number, options, prompts=(Prompt(prompt),))
    system = request.system or system
    said = _said(prompt, request.images, "images", images)
    messages: tuple[dict[str, object], ...] = ({"role": "user", "content": said},)
    if system:
        messages = ({"role": "system", "content": system}, *messages)
    return Ask(number, options, messages=messages)


def _options(request: OllamaRequest, context: int, adapter: str) -> Options:
    given = request.options or ModelOptions()
    predict = given.num_predict
    stop = (given.stop,) if isinstance(given.stop, str) else tuple(given.stop or ())
    return Options(
        max_tokens=context if predict is None or predict < 1 else min(int(predict), context),
        temperature=given.temperature or 0.0,
        top_k=50 if given.top_k is None else max(0, min(int(given.top_k), _MOST_TOKENS)),
        top_p=1.0 if given.top_p is None else given.top_p,
        min_p=given.min_p or 0.0,
        seed=None if given.seed is None else int(given.seed) % _SEEDS,
        stop=tuple(filter(None, stop)),
        repetition_penalty=given.repeat_penalty or 1.0,
        presence_penalty=given.presence_penalty or 0.0,
        frequency_penalty=given.frequency_penalty or 0.0,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        json_schema=_schema(request.format),
        adapter=adapter or None,
    )


def _schema(format_: Format | None) -> str | None:
    """The JSON schema, as text, of a `format`."""
    if not format_:
        return None
    return ANY_OBJECT if isinstance(format_, str) else text_of_schema(format_, "format")


def _said(
    text: str, given: list[str] | None, param: str, images: AskedImages
) -> str | list[dict[str, object]]:
    """A text behind its images."""
    if not given:
        return text
    parts = [images.in_base64(image, f"{param}[{place}]") for place, image in enumerate(given)]
    return [*parts, {"type": "text", "text": text}] if text else parts


def _plain(message: OllamaMessage, place: str, images: AskedImages) -> dict[str, object]:
    """A message as the engine's process takes it."""
    if message.images and message.role != "user":
        raise Refusal(
            400,
            f"expected images in messages of the user, found them in one of the {message.role}",
            param=f"{place}.images",
        )
    said = _said(message.content or "", message.images, f"{place}.images", images)
    plain: dict[str, object] = {"role": message.role, "content": said}
    if message.role == "tool":
        named = {"tool_call_id": message.tool_call_id, "name": message.tool_name}
        plain |= {key: text for key, text in named.items() if text}
    if message.tool_calls:
        plain["tool_calls"] = [
            {
                "id": call.id or "",
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": msgspec.json.encode(call.function.arguments).decode(),
                },
            }
            for call in message.tool_calls
        ]
    return plain


def _refuse_thinking(request: OllamaRequest) -> None:
    if request.think:
        raise Refusal(400, f"{request.model!r} does not support thinking", param="think")


def _not_offered(name: str) -> Refusal:
    return Refusal(400, f"{name} is not supported by this server; leave it out", param=name)
