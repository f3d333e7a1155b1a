"""What the requests of OpenAI's API have in common, as a type, and how they are turned into options.

The types check every member's kind and range and describe themselves in /openapi.json. A member that is not
known is refused: an option that is silently ignored is the worst kind of bug. So is one that is known and
would change the answer, but is not offered here (UNSUPPORTED), unless it has the value that changes nothing.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edgephi.runtime.options import LEAST_REPETITION_PENALTY, MOST_REPETITION_PENALTY, Options
from edgephi.server.openai.answer_rules import RuledRequest, answer_rules
from edgephi.server.refusal import Refusal

_SEEDS = 1 << 31  # the engines' seeds have so many values
_MOST_TOKENS = 1 << 24  # more than any vocabulary has

Tokens = Annotated[int, Meta(ge=1, description="The most tokens of the answer")]
Stop = Annotated[str, Meta(min_length=1, max_length=1000)]
Stops = Annotated[list[Stop], Meta(max_length=16)]  # four in OpenAI's, more in what harnesses ask for
Bias = Annotated[float, Meta(ge=-100, le=100)]
TokenId = Annotated[str, Meta(pattern="^[0-9]{1,9}$")]
Repetition = Annotated[
    float,
    Meta(
        ge=LEAST_REPETITION_PENALTY,
        le=MOST_REPETITION_PENALTY,
        description="1: no penalty. Not of OpenAI's API",
    ),
]
Number = Annotated[float, Meta(ge=-2, le=2)]


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`include_usage` adds a last chunk with the numbers of tokens."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Request(RuledRequest, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What the kinds of request have in common."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, description="0 or -1: all tokens. Not of OpenAI's API")] | None = None
    seed: int | None = None
    stop: Stop | Stops | None = None
    n: int | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    logit_bias: dict[TokenId, Bias] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1, description="Not of OpenAI's API")] | None = None
    repetition_penalty: Repetition | None = None
    repeat_penalty: Repetition | None = None
    user: str | None = None


UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "moderation": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "store": (False,),
    "suffix": ("",),
}
"""Members that are refused, and the values besides null that change nothing and are let through."""


def options(
    request: Request,
    *,
    max_tokens: int,
    logprobs: int | None,
    adapter: str,
) -> Options:
    """How the engine is to answer a request. Raises Refusal."""
    rules = answer_rules(request)
    held_to = {} if rules is None else {rules.kind: rules.text}
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    return Options(
        max_tokens=max_tokens,
        temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=50 if request.top_k is None else min(max(0, request.top_k), _MOST_TOKENS),
        min_p=request.min_p or 0.0,
        repetition_penalty=_repetition_penalty(request),
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        logit_bias={int(token): bias for token, bias in (request.logit_bias or {}).items()},
        seed=None if request.seed is None else request.seed % _SEEDS,
        stop=stop,
        logprobs=logprobs,
        adapter=adapter or None,
        json_schema=held_to.get("json_schema"),
        regex=held_to.get("regex"),
        grammar=held_to.get("grammar"),
    )


def _repetition_penalty(request: Request) -> float:
    """By the name that vLLM has for it, or by llama.cpp's."""
    given = {request.repetition_penalty, request.repeat_penalty} - {None}
    if len(given) > 1:
        raise Refusal(
            400,
            f"expected one of repetition_penalty and repeat_penalty, found {request.repetition_penalty} and "
            f"{request.repeat_penalty}",
            param="repeat_penalty",
        )
    return given.pop() or 1.0 if given else 1.0


def refuse_unsupported(request: Request) -> None:
    """Raise Refusal for what would change the answer and is not offered."""
    for name, harmless in UNSUPPORTED.items():
        value = getattr(request, name, None)
        if value is not None and value not in harmless:
            raise unsupported(f"{name} is not supported by this server; leave it out", name)
    if request.stream_options is not None and not request.stream:
        raise Refusal(400, "expected stream to be true with stream_options", param="stream_options")


def unsupported(message: str, param: str) -> Refusal:
    """What is said of something that is not offered."""
    return Refusal(400, message, param=param, code="unsupported_parameter")
