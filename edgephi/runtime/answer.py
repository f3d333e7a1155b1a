"""One answer: its prompt is computed behind what is cached of it, then it is written token by token."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, Self

from edgephi.chat.tools.call_reader import CallPiece, CallReader, ToolCall
from edgephi.errors import EdgephiError
from edgephi.runtime.adapter import Engine, KvCache
from edgephi.runtime.options import DEFAULT_MAX_TOKENS, Options
from edgephi.runtime.prefix_cache import PrefixCache
from edgephi.runtime.text.logits_processors import processors_of
from edgephi.runtime.text.sampling import Sampler, Sampling, best
from edgephi.runtime.text.scores import Scorer, TokenScore
from edgephi.runtime.text.stop_texts import StopTexts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgephi.runtime.text.constraint import Constraint

StopReason = Literal["stop", "tool_calls", "length", "context", "closed"]

OnPrefill = Callable[[int, int], None]
"""Is told how many of the prompt's tokens are in the cache, and how many there are."""


@dataclass(frozen=True)
class Generation:
    """A finished answer. Times in seconds, speeds in tokens per second.

    `stop_reason`: "stop" at a stop token, a stop text or the end of JSON that is complete, "tool_calls" where
    that ends calls of functions, "length" after `max_tokens`, "context" when the bundle's context is full,
    "closed" when the answer was closed before its end. `generated_tokens` does not count the stop token.
    `reused_tokens` of the prompt were in a KV cache already. `first_token_seconds` runs from the prompt's
    text to the first token, tokenisation and prefill included; loading the model does not count.
    `prefill_tokens_per_second` is that of the tokens that were computed. A speed that cannot be told is 0.
    `scores` are there when they were asked for, and `stop_score`, that of a stop token at the end.
    `tool_calls` are those that are whole, and no part of `text`: one that was cut off is in neither.
    """

    text: str
    stop_reason: StopReason
    prompt_tokens: int
    generated_tokens: int
    first_token_seconds: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    reused_tokens: int = 0
    scores: tuple[TokenScore, ...] | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    stop_score: TokenScore | None = None


@dataclass(frozen=True)
class Piece:
    """Text of an answer that is complete, and the scores of its tokens where they were asked for.

    A token belongs to the piece in which its first letter is. The last piece may have scores and no text.
    Where functions are called, pieces have more of the `calls` instead.
    """

    text: str
    scores: tuple[TokenScore, ...] = ()
    calls: tuple[CallPiece, ...] = ()


OnEnd = Callable[[Generation, list[int] | None], None]
"""Is told the answer, and its tokens where they are its text."""


@dataclass(frozen=True)
class Work:
    """All that an answer is made from. `start` is when its prompt came, of `time.perf_counter`.

    `comes_back`: whether a later prompt may go on where this answer ends. `adapter`: the name of the one that
    it is computed with, or "". `calls` reads the calls of functions out of the answer, in which `spelled` are
    special tokens whose texts are read too. `on_end` is told the answer and its
    tokens when it has ended, other than by an error; the tokens are None where they say more than the text.
    `known` are the logits after the prompt [vocabulary] where somebody has computed them.
    """

    engine: Engine
    caches: PrefixCache
    stop_token_ids: frozenset[int]
    context: int
    prompt: list[int]
    options: Options
    start: float
    comes_back: bool
    adapter: str = ""
    constraint: Constraint | None = None
    scorer: Scorer | None = None
    calls: CallReader | None = None
    spelled: Mapping[int, str] = field(default_factory=dict)
    on_prefill: OnPrefill | None = None
    on_end: OnEnd | None = None
    known: NDArray[np.float32] | None = None

    @property
    def most_new_tokens(self) -> int:
        """The most tokens of the answer, as far as the context does not matter."""
        return self.options.max_tokens or DEFAULT_MAX_TOKENS

    @property
    def length(self) -> int:
        """The most tokens of prompt and answer together."""
        return min(self.context, len(self.prompt) + self.most_new_tokens)


@dataclass
class _Written:
    """What has been written so far. `steps` counts tokens, a stop token included; `decoded` their letters.

    Of these, `spoken` are known to be text and not of a call.
    """

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    scores: list[TokenScore] = field(default_factory=list)
    stop_reason: StopReason = "closed"
    reused: int = 0
    stop_score: TokenScore | None = None
    steps: int = 0
    decoded: int = 0
    spoken: int = 0
    inside_letter: bool = False
    prefill_start: float = 0.0
    first: float = 0.0
    last: float = 0.0


class Answer(Iterator[str]):
    """Iterate to get the text in pieces as the model writes it; `generation` has the rest, after the end.

    Nothing is computed before the first piece is asked for. An answer that is not taken to its end should be
    closed, which a `with` block does too; what it had computed stays cached. Errors of memory and of the
    engine come out of the iteration.
    """

    def __init__(self, work: Work) -> None:
        # Two objects, so that no reference leads in a circle: an answer that nobody holds ends at once.
        self._writer = _Writer(work)
        self._pieces = self._writer.write()

    def __next__(self) -> str:
        while True:
            piece = next(self._pieces)
            if piece.text:
                return piece.text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pieces(self) -> Iterator[Piece]:
        """The same pieces with the scores of their tokens."""
        return self._pieces

    def close(self) -> None:
        """Stop writing within one token, or one piece of the prompt. Closing again does nothing.

        May be called by another thread, or by a signal handler, while a piece is awaited: then the iteration
        ends soon after.
        """
        self._writer.closing.set()
        # It is computing right now in the other case, and sees the mark soon.
        with contextlib.suppress(ValueError):
            self._pieces.close()
            self._writer.end()

    @property
    def generation(self) -> Generation:
        """The whole answer and its numbers; only after the last piece, or when it is closed."""
        if self._writer.generation is None:
            raise EdgephiError("the answer is not finished yet", hint="take all of its pieces first")
        return self._writer.generation


class _Logits(Protocol):
    """What tokens are chosen from: a KvCache, as far as decoding needs one."""

    def logits(self) -> NDArray[np.float32]:
        """See KvCache."""

    def next_greedy(self) -> int:
        """See KvCache."""

    def append(self, tokens: Sequence[int]) -> Iterator[int]:
        """See KvCache."""


class _Known:
    """Logits that are there already, for an answer of one token."""

    def __init__(self, logits: NDArray[np.float32]) -> None:
        self._logits = logits

    def logits(self) -> NDArray[np.float32]:
        return self._logits

    def next_greedy(self) -> int:
        return best(self._logits)

    def append(self, tokens: Sequence[int]) -> Iterator[int]:
        raise EdgephiError(f"expected no token behind the first, found {tokens}", hint="please report this")


class _Writer:
    """Writes one answer. `generation` is there when it has ended, other than by an error."""

    def __init__(self, work: Work) -> None:
        self.closing = threading.Event()
        self.generation: Generation | None = None
        self._work = work
        self._failed = False
        self._written = _Written()

    def write(self) -> Generator[Piece]:
        """Prefill, decode, and leave the numbers in `generation`."""
        work, written = self._work, self._written
        written.prefill_start = time.perf_counter()
        try:
            if work.known is not None and work.most_new_tokens == 1:
                yield from self._decode(_Known(work.known), written)
                return
            with work.caches.take(
                work.prompt, work.length, comes_back=work.comes_back, adapter=work.adapter
            ) as lease:
                written.reused = lease.reused
                if self._prefill(lease.cache, lease.reused):
                    yield from self._decode(lease.cache, written)
        except EdgephiError:
            self._failed = True
            raise
        finally:
            self.end()

    def _prefill(self, cache: KvCache, reused: int) -> bool:
        """Compute what is missing of the prompt; False when the answer was closed meanwhile."""
        work = self._work
        for done in cache.append(work.prompt[reused:]):
            if work.on_prefill is not None:
                work.on_prefill(reused + done, len(work.prompt))
            if self.closing.is_set():
                return False
        return True

    def _decode(self, cache: _Logits, written: _Written) -> Iterator[Piece]:
        """Write the answer, piece by piece."""
        work = self._work
        options = work.options
        choose = _chooser(cache, work, written.tokens)
        stream = work.engine.decode_stream(work.prompt[-1])
        stops = StopTexts(options.stop)
        waiting: list[
            tuple[int, TokenScore]
        ] = []  # scores, and the place in the text where their token begins
        while not self.closing.is_set():
            token = choose()
            written.last = time.perf_counter()
            written.first = written.first or written.last
            written.steps += 1
            if token in work.stop_token_ids:
                if work.scorer is not None:
                    written.stop_score = work.scorer.score(cache.logits(), token, opens=False, text="")
                written.stop_reason = "stop"
                break
            text = stream.decode(token) or work.spelled.get(token, "")
            if work.constraint is not None and work.constraint.leaves_out_space:
                text = _without_space(text, work.engine.decode_stream(token).decode(token))
            if work.scorer is not None and not (work.calls is not None and work.calls.is_calling):
                score = work.scorer.score(cache.logits(), token, opens=not written.tokens, text=text)
                waiting.append((written.decoded, score))
            written.tokens.append(token)
            written.decoded += len(text)
            written.inside_letter = not text
            shown, calls = (text, ()) if work.calls is None else _read(work.calls, text, written, waiting)
            yield from _shown(stops.feed(shown), written, waiting, calls=calls)
            if stops.found:
                written.stop_reason = "stop"
                return
            if self._is_full(written):
                break
            if work.constraint is not None:
                work.constraint.take(token)
                if work.constraint.is_finished:
                    written.stop_reason = "stop"
                    break
            for _ in cache.append([token]):
                if self.closing.is_set():  # all tokens before it may have to be computed again
                    break
        if not self.closing.is_set():
            held = "" if work.calls is None else stops.feed(work.calls.rest())
            yield from _shown(held + stops.rest(), written, waiting, all_scores=True)

    def _is_full(self, written: _Written) -> bool:
        """Whether no more tokens may come; leaves the reason in `written`."""
        work = self._work
        if len(work.prompt) + len(written.tokens) < work.length:
            return False
        written.stop_reason = "length" if len(written.tokens) == work.most_new_tokens else "context"
        return True

    def end(self) -> None:
        """Leave the numbers in `generation`, unless they are there or the answer has failed."""
        if self._failed or self.generation is not None:
            return
        work, written, prompt = self._work, self._written, len(self._work.prompt)
        prefill_seconds = written.first - written.prefill_start
        calls = () if work.calls is None else tuple(work.calls.calls)
        if calls and written.stop_reason == "stop":
            written.stop_reason = "tool_calls"
        self.generation = Generation(
            text=written.text,
            stop_reason=written.stop_reason,
            prompt_tokens=prompt,
            generated_tokens=len(written.tokens),
            first_token_seconds=written.first - work.start if written.steps else 0.0,
            prefill_tokens_per_second=_per_second(prompt - written.reused, prefill_seconds),
            decode_tokens_per_second=_per_second(written.steps - 1, written.last - written.first),
            reused_tokens=written.reused,
            scores=None if work.scorer is None else tuple(written.scores),
            tool_calls=calls,
            stop_score=written.stop_score,
        )
        if work.on_end is not None:
            is_said = written.decoded == len(written.text) and not written.inside_letter
            work.on_end(self.generation, written.tokens if is_said else None)


def _chooser(cache: _Logits, work: Work, answer: Sequence[int]) -> Callable[[], int]:
    """What gives the next token after those of `answer`, which grows."""
    options, constraint = work.options, work.constraint
    processors = processors_of(options, work.prompt)
    if options.temperature == 0 and constraint is None and work.scorer is None and processors is None:
        return cache.next_greedy  # an engine may be quicker
    sampler = Sampler(
        Sampling(options.temperature, options.top_k, options.top_p, options.min_p), options.seed
    )

    def choose() -> int:
        logits = cache.logits()
        if processors is not None:
            logits = processors.process(logits, answer)
        return sampler.choose(logits if constraint is None else constraint.masked(logits))

    return choose


def _without_space(text: str, whole: str) -> str:
    """The text of a token without its first space, which may have been left out of `whole` already."""
    return text.removeprefix(" ") if text == whole else text


def _read(
    reader: CallReader, text: str, written: _Written, waiting: list[tuple[int, TokenScore]]
) -> tuple[str, tuple[CallPiece, ...]]:
    """What can be shown of an answer in which calls may come, and what is new in calls."""
    shown, calls = reader.feed(text)
    written.spoken += len(shown)
    if reader.is_calling:  # the tokens of its mark are no text
        waiting[:] = [(start, score) for start, score in waiting if start < written.spoken]
    return shown, tuple(calls)


def _shown(
    text: str,
    written: _Written,
    waiting: list[tuple[int, TokenScore]],
    *,
    calls: tuple[CallPiece, ...] = (),
    all_scores: bool = False,
) -> Iterator[Piece]:
    """The piece that `text` makes, if it is one, with the scores that have waited for it."""
    written.text += text
    ready = [score for start, score in waiting if all_scores or start < len(written.text)]
    del waiting[: len(ready)]
    written.scores += ready
    if text or ready or calls:
        yield Piece(text, tuple(ready), calls)


def _per_second(count: int, seconds: float) -> float:
    return count / seconds if count > 0 and seconds > 0 else 0.0
