"""What the KV cache of every engine does, as tests that an engine's own file inherits.

The oracle is always the same: a fresh cache of the same engine, given the same tokens at once.
"""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgephi.build.build import build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.bundle.manifest import read_manifest
from edgephi.declared.recipe import read_recipe
from edgephi.declared.target import Kernels, read_target
from edgephi.engines.facts.registry import facts_of
from edgephi.errors import DoesNotFitError, EdgephiError
from edgephi.runtime.adapter import Engine, KvCache, open_engine
from edgephi.runtime.engines.sequence_cache import SequenceCache
from edgephi.steps import silent
from tests.portable import portable
from tests.property_profile import examples
from tests.tiny_checkpoint import write_tiny_checkpoint

np = pytest.importorskip("numpy")

ORIGINAL = 40
"""Tokens up to which `open_longrope`'s model is rotated by LongRoPE's short factors."""
WINDOW = 24
"""Tokens that each one of `open_windowed`'s model sees, itself included."""


def some_ids(count: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(20, 250), k=count)


def grow(cache: KvCache, tokens: Sequence[int]) -> list[int]:
    """Append `tokens` to the end; returns how many were done after each piece."""
    return list(cache.append(tokens))


def fresh_logits(engine: Engine, tokens: Sequence[int]) -> Any:
    """Logits after a fresh prefill of `tokens`, [vocabulary]."""
    cache = engine.open_cache(len(tokens))
    grow(cache, tokens)
    logits = cache.logits().copy()
    cache.close()
    return logits


def greedy(engine: Engine, prompt: Sequence[int], count: int) -> list[int]:
    """The `count` most likely tokens after `prompt`, one after the other."""
    cache = engine.open_cache(len(prompt) + count)
    pending = list(prompt)
    answer: list[int] = []
    while len(answer) < count:
        grow(cache, pending)
        pending = [cache.next_greedy()]
        answer += pending
    cache.close()
    return answer


def taken_at_opening(bundle: Path) -> tuple[bool, int, int]:
    """What a fresh process sees of a cache for 4,096 tokens of the demo.

    Whether the engine says that it allocates ahead, bytes that opening took, bytes that the tokens took then.
    """
    code = (
        "import pathlib, psutil, sys\n"
        "from edgephi.bundle.manifest import read_manifest\n"
        "from edgephi.runtime.adapter import open_engine\n"
        "bundle = pathlib.Path(sys.argv[1])\n"
        "def taken(): return psutil.Process().memory_info().rss\n"
        "engine = open_engine(bundle, read_manifest(bundle), provider='cpu')\n"
        "list(engine.open_cache(256).append([20] * 250))\n"
        "before = taken()\n"
        "cache = engine.open_cache(read_manifest(bundle).limits.context)\n"
        "opened = taken()\n"
        "list(cache.append([20] * 1000))\n"
        "print(int(engine.allocates_ahead), opened - before, taken() - opened)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, bundle], capture_output=True, text=True, check=True)
    ahead, opening, filling = map(int, done.stdout.split())
    return bool(ahead), opening, filling


def open_longrope(target: str, folder: Path, *, provider: str = "cpu") -> Engine:
    """A model whose LongRoPE factors change after ORIGINAL tokens; its weights make positions matter."""
    return _open_tiny(target, folder, provider, original_context=ORIGINAL, context=1024)


def open_windowed(target: str, folder: Path, *, provider: str = "cpu") -> Engine:
    """A model with an attention window of WINDOW tokens."""
    return _open_tiny(target, folder, provider, longrope=False, sliding_window=WINDOW, context=1024)


def _open_tiny(target: str, folder: Path, provider: str, **shape: Any) -> Engine:
    tiny = write_tiny_checkpoint(folder / "tiny", "mini-128k", std=0.15, **shape)
    return open_exact(target, tiny, folder, provider=provider)


def open_exact(target: str, tiny: Path, folder: Path, *, provider: str = "cpu") -> Engine:
    """The checkpoint in `tiny`, built into `folder` with activations that are hardly rounded."""
    # Where an engine can leave activations as they are, kernels of other shapes round hardly differently.
    exact = dataclasses.replace(read_target(target), kernels=Kernels(accuracy_level=0))
    recipe = dataclasses.replace(read_recipe("default"), quant=portable())
    request = BuildRequest(str(tiny), exact, recipe, folder / "bundle", verify="off", context=512)
    build(request, find_checkpoint(str(tiny), request.recipe, None, progress=False), silent)
    return open_engine(folder / "bundle", read_manifest(folder / "bundle"), provider=provider)


def spread(logits: Any) -> float:
    """The standard deviation of logits, without those of tokens that no text has."""
    return float(logits[logits > np.finfo(np.float32).min].std())


@dataclasses.dataclass
class Same:
    """Compares logits: what another order of sums, or other int8 activations, may change of them."""

    engine: Engine
    tolerance: float
    """In standard deviations of the logits."""

    def __call__(self, cache: KvCache, *, tokens: Sequence[int] | None = None) -> None:
        """The logits of `cache` are those of a fresh prefill of its tokens."""
        if tokens is not None:
            assert list(cache.tokens) == list(tokens)
        expected, found = fresh_logits(self.engine, cache.tokens), cache.logits()
        assert found.shape == expected.shape
        assert found.dtype == np.float32
        rounding = self.tolerance * spread(expected)
        np.testing.assert_allclose(found, expected, atol=rounding)
        # As likely as the most likely one, if it is not that one.
        assert expected[cache.next_greedy()] >= expected.max() - 2 * rounding


few_examples = settings(
    max_examples=examples(15),
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.function_scoped_fixture],
)

STEPS = st.lists(st.tuples(st.sampled_from(["append", "stop", "rewind"]), st.floats(0, 1.5)))
"""What `take_steps` does."""


class CacheBehaviour:
    """Inherited by a class that has the engine's `engine` fixture, with the demo's model, around it."""

    tolerance: ClassVar[float] = 1e-3
    takes_pieces_of: ClassVar[int]
    """Tokens of a prompt that the engine computes at once."""

    @pytest.fixture
    def same(self, engine: Engine) -> Same:
        return Same(engine, self.tolerance)

    def test_it_starts_empty(self, engine: Engine) -> None:
        cache = engine.open_cache(40)
        assert cache.capacity == 40
        assert list(cache.tokens) == []
        with pytest.raises(EdgephiError, match="not computed yet"):
            cache.logits()
        with pytest.raises(EdgephiError, match="not computed yet"):
            cache.next_greedy()

    def test_a_prompt_comes_in_pieces(self, engine: Engine) -> None:
        size = self.takes_pieces_of
        ids = some_ids(2 * size + 3)
        cache = engine.open_cache(len(ids) + 1)
        assert grow(cache, ids)[-1] == len(ids)
        assert cache.next_greedy() == fresh_logits(engine, ids).argmax()
        assert grow(cache, [7]) == [1]
        assert list(cache.tokens) == [*ids, 7]
        assert grow(cache, []) == []
        assert cache.logits().ndim == 1

    def test_a_plan_counts_what_is_computed_at_once(self, engine: Engine) -> None:
        planned = facts_of(engine.name).provider(engine.provider).prefill
        ids = some_ids(2 * planned.tokens)
        pieces = grow(engine.open_cache(len(ids)), ids)
        assert pieces[0] == planned.tokens

    def test_the_logits_are_those_of_the_certificate(self, engine: Engine, same: Same) -> None:
        ids = some_ids(50)
        cache = engine.open_cache(50)
        grow(cache, ids)
        expected = next(iter(engine.logits(ids, step=50)))[-1]
        np.testing.assert_allclose(cache.logits(), expected, atol=same.tolerance * spread(expected))

    def test_each_text_of_a_certificate_starts_an_empty_context(self, engine: Engine) -> None:
        texts = [some_ids(50), some_ids(20, seed=1), some_ids(50)]
        first, other, again = (np.concatenate(list(engine.logits(ids, step=32))) for ids in texts)
        np.testing.assert_array_equal(again, first)
        assert not np.allclose(other, first[:20])

    @pytest.mark.parametrize("kept", [0, 1, 33, 64, 79, 80])
    def test_a_rewound_cache_goes_on_as_a_fresh_one(self, engine: Engine, same: Same, kept: int) -> None:
        cache = engine.open_cache(120)
        ids, others = some_ids(80), some_ids(40, seed=1)
        grow(cache, ids)
        cache.rewind(kept)
        assert list(cache.tokens) == ids[:kept]
        grow(cache, others)
        same(cache, tokens=[*ids[:kept], *others])

    def test_a_rewound_cache_has_no_logits(self, engine: Engine) -> None:
        cache = engine.open_cache(9)
        grow(cache, some_ids(8))
        cache.rewind(8)
        cache.logits()
        cache.rewind(7)
        with pytest.raises(EdgephiError, match="not computed yet"):
            cache.logits()

    def test_it_keeps_no_more_than_it_holds(self, engine: Engine) -> None:
        cache = engine.open_cache(9)
        grow(cache, some_ids(8))
        for count in (-1, 9):
            with pytest.raises(EdgephiError, match=f"expected to keep 0 to 8 tokens, found {count}"):
                cache.rewind(count)

    def test_caches_side_by_side_do_not_mix(self, engine: Engine, same: Same) -> None:
        texts = [some_ids(30, seed=seed) for seed in range(3)]
        caches = [engine.open_cache(40 + seed) for seed in range(3)]
        for start in range(0, 30, 10):
            for cache, ids in zip(caches, texts, strict=True):
                grow(cache, ids[start : start + 10])
        for cache, ids in zip(caches, texts, strict=True):
            same(cache, tokens=ids)
        caches[1].close()
        caches[1].close()  # nothing happens
        grow(caches[0], [30])
        same(caches[0])
        with pytest.raises(EdgephiError, match="found a closed one"):
            caches[1].append([30])

    def test_a_prompt_that_is_stopped_can_be_taken_up_again(self, engine: Engine, same: Same) -> None:
        size = self.takes_pieces_of
        ids = some_ids(3 * size + 9)
        cache = engine.open_cache(len(ids))
        pieces = cache.append(ids)
        done = next(pieces)
        assert 0 < done <= size
        pieces.close()  # type: ignore[attr-defined]
        assert list(cache.tokens) == ids[:done]
        with pytest.raises(EdgephiError, match="not computed yet"):
            cache.logits()
        grow(cache, ids[done:])
        same(cache, tokens=ids)

    def test_nothing_is_computed_before_it_is_asked_for(self, engine: Engine) -> None:
        cache = engine.open_cache(20)
        cache.append(some_ids(20))
        assert list(cache.tokens) == []

    def test_a_piece_that_is_interrupted_leaves_no_trace(self, engine: Engine, same: Same) -> None:
        cache = engine.open_cache(60)
        grow(cache, some_ids(20))
        assert isinstance(cache, SequenceCache)
        compute = cache._compute

        def interrupted(tokens: list[int], past: int) -> None:
            compute(tokens, past)
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cache, "_compute", interrupted)
            with pytest.raises(KeyboardInterrupt):
                grow(cache, some_ids(10, seed=1))
        assert list(cache.tokens) == some_ids(20)
        grow(cache, some_ids(12, seed=2))
        same(cache, tokens=[*some_ids(20), *some_ids(12, seed=2)])

    def test_more_than_it_was_opened_for(self, engine: Engine, same: Same) -> None:
        cache = engine.open_cache(10)
        grow(cache, some_ids(9))
        with pytest.raises(DoesNotFitError, match="expected at most 10 tokens, found 11"):
            cache.append([30, 31])
        same(cache, tokens=some_ids(9))
        grow(cache, [30])
        same(cache)

    def test_more_than_the_engine_was_opened_for(self, engine: Engine) -> None:
        with pytest.raises(DoesNotFitError, match=r"expected at most \d+ tokens, found 1000000"):
            engine.open_cache(1_000_000)

    def test_a_fork_goes_its_own_way(self, engine: Engine, same: Same) -> None:
        cache = engine.open_cache(90)
        ids = some_ids(70)
        grow(cache, ids)
        fork = cache.fork()
        assert (fork is not None) == engine.copies_caches
        if fork is None:
            return
        assert fork.capacity == 90
        with pytest.raises(EdgephiError, match="not computed yet"):
            fork.logits()
        grow(fork, [30, 31])
        fork.rewind(40)
        grow(fork, some_ids(40, seed=1))
        grow(cache, [32])
        same(cache, tokens=[*ids, 32])
        same(fork, tokens=[*ids[:40], *some_ids(40, seed=1)])
        cache.close()
        grow(fork, [33])
        same(fork)

    @few_examples
    @given(steps=STEPS)
    def test_whatever_happens_it_is_a_fresh_prefill(
        self, engine: Engine, same: Same, steps: list[tuple[str, float]]
    ) -> None:
        take_steps(engine.open_cache(200), steps, unit=50)(same)


def take_steps(cache: KvCache, steps: Sequence[tuple[str, float]], *, unit: int) -> Callable[[Same], None]:
    """Append and rewind as `steps` say, and stop some appends after a piece; returns the check of the end.

    The number of a step, times `unit`, is how many tokens are appended or kept.
    """
    expected: list[int] = []
    for number, (kind, share) in enumerate(steps):
        count = int(share * unit)
        if kind == "rewind":
            expected = expected[:count]
            cache.rewind(len(expected))
        elif len(expected) + count < cache.capacity:
            ids = some_ids(count, seed=number)
            pieces = cache.append(ids)
            if kind == "append":
                expected += ids
                assert list(pieces)[-1:] == [count] * (count > 0)
            else:
                done = next(pieces, 0)
                pieces.close()  # type: ignore[attr-defined]
                expected += ids[:done]
    grow(cache, [30])

    def check(same: Same) -> None:
        same(cache, tokens=[*expected, 30])
        cache.close()

    return check


class LongRopeBehaviour:
    """Inherited by a class that has a fixture `longrope`: `open_longrope` of the engine's target."""

    tolerance: ClassVar[float] = 1e-3

    @pytest.fixture
    def same(self, longrope: Engine) -> Same:
        return Same(longrope, self.tolerance)

    def test_the_factors_matter(self, longrope: Engine) -> None:
        ids = some_ids(ORIGINAL + 1)
        before, shifted, after = (fresh_logits(longrope, each) for each in (ids[:-1], ids[1:], ids))
        for other in (before, shifted):
            assert np.abs(after - other).max() > 3 * self.tolerance * spread(after)

    def test_an_answer_crosses_to_the_long_factors(self, longrope: Engine, same: Same) -> None:
        start = ORIGINAL - 2
        ids = some_ids(ORIGINAL + 4)
        cache = longrope.open_cache(len(ids))
        grow(cache, ids[:start])
        for token in ids[start:]:
            assert grow(cache, [token])[-1] == 1
            same(cache)

    def test_what_is_computed_again_is_not_counted(self, longrope: Engine) -> None:
        cache = longrope.open_cache(500)
        grow(cache, some_ids(ORIGINAL))
        counts = grow(cache, some_ids(200))
        assert counts == sorted(counts)
        assert counts[-1] == 200
        assert len(cache.tokens) == ORIGINAL + 200

    @pytest.mark.parametrize("kept", [0.1, 0.5, 1.0, 1.1])
    @pytest.mark.parametrize("added", [1, 3, 60])
    def test_a_rewound_cache_crosses_in_both_directions(
        self, longrope: Engine, same: Same, kept: float, added: int
    ) -> None:
        cache = longrope.open_cache(500)
        ids, count = some_ids(ORIGINAL + 40), int(kept * ORIGINAL)
        grow(cache, ids)
        cache.rewind(count)
        grow(cache, some_ids(added, seed=1))
        same(cache, tokens=[*ids[:count], *some_ids(added, seed=1)])

    def test_rewound_by_one_token_it_has_the_short_factors(self, longrope: Engine, same: Same) -> None:
        cache = longrope.open_cache(500)
        ids = some_ids(ORIGINAL + 1)
        for last in (30, 31):
            grow(cache, ids[len(cache.tokens) :])
            same(cache, tokens=ids)
            cache.rewind(ORIGINAL - 1)
            grow(cache, [last])
            same(cache, tokens=[*ids[: ORIGINAL - 1], last])
            cache.rewind(ORIGINAL - 1)

    def test_a_fork_has_the_factors_of_its_own_length(self, longrope: Engine, same: Same) -> None:
        cache = longrope.open_cache(500)
        grow(cache, some_ids(ORIGINAL))
        fork = cache.fork()
        if fork is None:
            return
        grow(fork, [30])
        second = fork.fork()
        assert second is not None
        second.rewind(ORIGINAL - 1)
        for each in (cache, second, fork):
            each.rewind(len(each.tokens) - 1)
            grow(each, [31])
            same(each)

    @few_examples
    @given(steps=STEPS)
    def test_whatever_happens_it_is_a_fresh_prefill(
        self, longrope: Engine, same: Same, steps: list[tuple[str, float]]
    ) -> None:
        take_steps(longrope.open_cache(3 * ORIGINAL), steps, unit=ORIGINAL)(same)


class WindowBehaviour:
    """Inherited by a class that has a fixture `windowed`: `open_windowed` of the engine's target."""

    tolerance: ClassVar[float] = 1e-3

    @pytest.fixture
    def same(self, windowed: Engine) -> Same:
        return Same(windowed, self.tolerance)

    def test_the_window_matters(self, windowed: Engine) -> None:
        ids = some_ids(60)
        others = [*some_ids(13, seed=1), *ids[13:]]
        whole, same_end = (fresh_logits(windowed, each) for each in (ids, others))
        # Each of two layers sees 23 tokens before its own: the first 13 of these 60 are out of sight.
        np.testing.assert_allclose(whole, same_end, atol=self.tolerance * whole.std())
        seen = fresh_logits(windowed, [*ids[:40], *some_ids(1, seed=2), *ids[41:]])
        assert np.abs(whole - seen).max() > 5 * self.tolerance * whole.std()

    @pytest.mark.parametrize("kept", [1, WINDOW, WINDOW + 1, 60, 200, 279, 280, 400, 439])
    def test_a_rewound_cache_goes_on_as_a_fresh_one(self, windowed: Engine, same: Same, kept: int) -> None:
        cache = windowed.open_cache(500)
        ids = some_ids(440)
        grow(cache, ids)
        cache.rewind(kept)
        assert list(cache.tokens) == ids[:kept]
        grow(cache, some_ids(40, seed=1))
        same(cache, tokens=[*ids[:kept], *some_ids(40, seed=1)])

    def test_a_fork_goes_its_own_way(self, windowed: Engine, same: Same) -> None:
        cache = windowed.open_cache(500)
        ids = some_ids(440)
        grow(cache, ids)
        fork = cache.fork()
        assert (fork is not None) == windowed.copies_caches
        if fork is None:
            return
        for each, kept in ((fork, 400), (cache, 430), (fork, 300), (cache, 10)):
            each.rewind(kept)
            grow(each, [30])
            same(each, tokens=[*ids[:kept], 30])

    @few_examples
    @given(steps=STEPS)
    def test_whatever_happens_it_is_a_fresh_prefill(
        self, windowed: Engine, same: Same, steps: list[tuple[str, float]]
    ) -> None:
        take_steps(windowed.open_cache(500), steps, unit=200)(same)
