"""One answer: its prompt is computed behind what is cached of it, then it is written token by token."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

from edgephi.chat.tools.call_reader import CallPiece, CallReader
from edgephi.errors import EdgephiError
from edgephi.runtime.adapter import KvCache
from edgephi.runtime.generation import Generation, Piece, StopReason
from edgephi.runtime.text.logits_processors import processors_of
from edgephi.runtime.text.sampling import Sampler, Sampling, best
from edgephi.runtime.text.scores import TokenScore
from edgephi.runtime.text.stop_texts import StopTexts
from edgephi.runtime.work import Work

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
    image_seconds: float = 0.0
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
        try:
            start = time.perf_counter()
            are_known = self._encode_images()
            written.prefill_start = time.perf_counter()
            written.image_seconds = written.prefill_start - start if work.images else 0.0
            if not are_known:
                return
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

    def _encode_images(self) -> bool:
        """Compute the prompt's images, in caches that stay as they are; False when the answer was closed."""
        work = self._work
        for done, total in () if work.images is None else work.images.encode():
            if work.on_image is not None:
                work.on_image(done, total)
            if self.closing.is_set():
                return False
        return True

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
            image_tokens=0 if work.images is None else work.images.tokens,
            image_seconds=written.image_seconds,
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
