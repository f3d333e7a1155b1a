"""What the engine's process says of an answer while it is written, and at its end."""

import time

from edgephi.runtime.session import Alternative as Likely
from edgephi.runtime.session import Answer, Generation, OnPrefill, TokenScore
from edgephi.runtime.session import PromptScore as GivenScore
from edgephi.server.engine.channel import Channel
from edgephi.server.engine.messages import Alternative, CallPart, End, Piece, Progress, PromptScore, Score

_LOWEST_LOGPROB = -9999.0  # what OpenAI's API has for tokens that all but cannot come


def told_to(channel: Channel, request: int) -> OnPrefill:
    """What tells the server how much of a prompt is computed."""
    return lambda done, total: channel.send(Progress(request, done, total))


def send_answer(answer: Answer, request: int, channel: Channel, choice: int = 0) -> None:
    """Write an answer, and tell the server each piece."""
    with channel.cancelling(request, answer):
        for piece in answer.pieces():
            scores = tuple(map(token_score, piece.scores))
            calls = tuple(CallPart(**vars(call)) for call in piece.calls)
            channel.send(Piece(request, piece.text, time.monotonic(), scores, choice, calls))


def end_of(request: int, numbers: Generation, start: float) -> End:
    """The end of a request that was read at the moment `start`."""
    return End(
        id=request,
        stop_reason=numbers.stop_reason,
        engine_seconds=time.monotonic() - start,
        prompt_tokens=numbers.prompt_tokens,
        reused_tokens=numbers.reused_tokens,
        generated_tokens=numbers.generated_tokens,
        first_token_seconds=numbers.first_token_seconds,
        prefill_tokens_per_second=numbers.prefill_tokens_per_second,
        decode_tokens_per_second=numbers.decode_tokens_per_second,
        tool_calls=len(numbers.tool_calls),
        image_tokens=numbers.image_tokens,
    )


def given_score(score: GivenScore) -> PromptScore:
    """The score of a token of a text that was given."""
    logprob = None if score.logprob is None else _finite(score.logprob)
    return PromptScore(score.text, logprob, _alternatives(score.alternatives))


def token_score(score: TokenScore) -> Score:
    """The score of a token of an answer."""
    return Score(score.text, _finite(score.logprob), score.bytes, _alternatives(score.alternatives))


def _alternatives(likely: tuple[Likely, ...]) -> tuple[Alternative, ...]:
    return tuple(Alternative(each.text, _finite(each.logprob), each.bytes) for each in likely)


def _finite(logprob: float) -> float:
    return max(logprob, _LOWEST_LOGPROB)  # JSON has no infinity
