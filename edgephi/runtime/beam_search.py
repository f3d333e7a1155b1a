"""Beam search: the likeliest answers that can be found when several beginnings are kept at every token.

As `transformers.generate(num_beams=N, do_sample=False)` searches, with its defaults: a beam that ends counts
only when it is among the N best continuations of its step; its score is the sum of its tokens' log
probabilities, the stop token included, divided by their number to the power of `length_penalty`; and the
search ends as soon as N beams have ended and the best one that goes on scores no more, at its length, than
the worst of them (`early_stopping=False`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgephi.errors import UsageError
from edgephi.runtime.adapter import Engine, KvCache
from edgephi.runtime.branches import BranchLogits, Continuation, CopiedCaches, OneCache
from edgephi.runtime.options import DEFAULT_MAX_TOKENS, GREEDY, Options
from edgephi.runtime.prefix_cache import PrefixCache
from edgephi.runtime.text.logits_processors import processors_of
from edgephi.runtime.text.sampling import log_probabilities, most_likely

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_BEAMS = 64
MOST_LENGTH_PENALTY = 10


@dataclass(frozen=True)
class Beam:
    """An answer that beam search has found.

    `score` is the sum of its tokens' natural log probabilities divided by their number to the power of the
    length penalty; higher is better. `token_ids` are its tokens without the stop token. `stop_reason` is
    "stop" at a stop token, "length" after the most tokens, "context" when the bundle's context is full.
    """

    text: str
    score: float
    token_ids: tuple[int, ...]
    stop_reason: Literal["stop", "length", "context"]


@dataclass(frozen=True)
class BeamWork:
    """All that a search is made from. `adapter`: the name of the one that it is computed with, or ""."""

    engine: Engine
    caches: PrefixCache
    stop_token_ids: frozenset[int]
    context: int
    prompt: list[int]
    options: Options
    beams: int
    length_penalty: float
    adapter: str = ""

    @property
    def most_new_tokens(self) -> int:
        """The most tokens of an answer."""
        return min(self.options.max_tokens or DEFAULT_MAX_TOKENS, self.context - len(self.prompt))


@dataclass(frozen=True)
class _Candidate:
    """A continuation, the sum of its log probabilities, and whether it has ended."""

    tokens: Continuation
    total: float
    has_ended: bool = False


def search(work: BeamWork) -> tuple[Beam, ...]:
    """The `work.beams` best answers, the best one first.

    Raises UsageError for options that a search has no place for, and as an answer does.
    """
    _check(work)
    length = len(work.prompt) + work.most_new_tokens
    with work.caches.take(work.prompt, length, comes_back=False, adapter=work.adapter) as lease:
        for _ in lease.cache.append(work.prompt[lease.reused :]):
            pass
        first = lease.cache.logits().copy()  # a copy of a cache has none
        branches = _branches(work, lease.cache, length)
        try:
            found = _search(work, branches, first)
        finally:
            branches.close()
    return tuple(_beam(work, each) for each in found)


def _check(work: BeamWork) -> None:
    """Raise UsageError for what a beam search has no place for."""
    options = work.options
    if not 1 <= work.beams <= MOST_BEAMS:
        raise UsageError(f"expected 1 to {MOST_BEAMS} beams, found {work.beams}", hint="2 to 8 are usual")
    if not -MOST_LENGTH_PENALTY <= work.length_penalty <= MOST_LENGTH_PENALTY:
        raise UsageError(
            f"expected a length penalty from -{MOST_LENGTH_PENALTY} to {MOST_LENGTH_PENALTY}, found "
            f"{work.length_penalty}",
            hint="1 is usual; 0 scores by the whole probability",
        )
    named = {
        "a temperature": options.temperature > 0,
        "a seed": options.seed is not None,
        "top_k": options.top_k != GREEDY.top_k,
        "top_p": options.top_p < 1,
        "min_p": options.min_p > 0,
        "stop texts": bool(options.stop),
        "logprobs": options.logprobs is not None,
        "rules for the answer": options.rules is not None,
    }
    for name, is_asked in named.items():
        if is_asked:
            raise UsageError(f"expected beams without {name}, found both", hint="leave out one of them")


def _branches(work: BeamWork, cache: KvCache, length: int) -> BranchLogits:
    """What computes the beams, after room was made for the caches that it copies."""
    if not work.engine.copies_caches:
        return OneCache(cache)
    each = cache.capacity if work.engine.allocates_ahead else length
    work.caches.make_room(work.beams * each, 0)
    return CopiedCaches(cache)


def _search(work: BeamWork, branches: BranchLogits, first: NDArray[np.float32]) -> list[_Candidate]:
    """The best candidates that have ended; `first` are the logits after the prompt."""
    running = [_Candidate((), 0.0)]
    ended: list[_Candidate] = []
    # So many, because each beam may have all the stop tokens among its likeliest.
    wanted = max(2, 1 + len(work.stop_token_ids)) * work.beams
    logits: Iterator[tuple[int, NDArray[np.float32]]] = iter([(0, first)])
    while True:
        candidates = [
            candidate
            for place, each in logits
            for candidate in _continued(work, running[place], each, wanted)
        ]
        candidates = sorted(candidates, key=lambda each: (-each.total, each.tokens))[:wanted]
        ended += [each for each in candidates[: work.beams] if each.has_ended]
        ended = sorted(ended, key=lambda each: -_score(work, each))[: work.beams]
        running = [each for each in candidates if not each.has_ended][: work.beams]
        if not running:
            return ended
        if len(ended) == work.beams and _score(work, running[0]) <= _score(work, ended[-1]):
            return ended
        logits = branches.grow([each.tokens for each in running])


def _continued(
    work: BeamWork, beam: _Candidate, logits: NDArray[np.float32], count: int
) -> Iterator[_Candidate]:
    """The `count` likeliest candidates that are a token longer than `beam`."""
    import numpy as np

    own = log_probabilities(logits, np.arange(len(logits))).astype(np.float32)
    processors = processors_of(work.options, work.prompt)
    if processors is not None:
        own = processors.process(own, beam.tokens)
    is_last = len(beam.tokens) + 1 == work.most_new_tokens
    for token in map(int, most_likely(own, count)):
        has_ended = is_last or token in work.stop_token_ids
        yield _Candidate((*beam.tokens, token), beam.total + float(own[token]), has_ended)


def _score(work: BeamWork, candidate: _Candidate) -> float:
    return candidate.total / float(len(candidate.tokens) ** work.length_penalty)


def _beam(work: BeamWork, candidate: _Candidate) -> Beam:
    """An answer as it is told."""
    tokens = candidate.tokens
    stop_reason: Literal["stop", "length", "context"] = "stop"
    if tokens[-1] in work.stop_token_ids:
        tokens = tokens[:-1]
    else:
        is_full = len(tokens) < (work.options.max_tokens or DEFAULT_MAX_TOKENS)
        stop_reason = "context" if is_full else "length"
    stream = work.engine.decode_stream(work.prompt[-1])
    text = "".join(map(stream.decode, tokens))
    return Beam(text, _score(work, candidate), tokens, stop_reason)
