"""LongRoPE on every engine: prompts around 4,096 tokens, and answers that cross it.

The oracle is a fresh prefill of the same tokens in transformers, which changes the factors for all positions
at once. An engine that cannot do that has a bundle that ends at 4,096 tokens.
"""

from pathlib import Path

import numpy as np
import pytest

from edgephi.bundle.manifest import ARTIFACT_FOLDER, read_manifest
from edgephi.errors import DoesNotFitError, NotSupportedError
from edgephi.runtime.session import Session
from tests.agreement.conftest import PROVIDER, TARGETS, build_for, engine_of
from tests.export.oracle import Floats, expected_logits, transformers_model
from tests.runtime.engines.cache_behaviour import greedy, grow
from tests.tiny_checkpoint import write_tiny_checkpoint

ORIGINAL = 4096
PAST = 4200
PROMPTS = (4095, 4097)
CAPPED = ("mlx",)
"""Targets whose engine never changes the factors: their bundles serve at most the original context."""
SWITCHING = [target for target in TARGETS if target not in CAPPED]
# What int8 activations and float16 may change about a token's logit; the wrong factors change it by more.
TOLERANCE = 0.05

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer whose attention looks far back: with weights as small as usual it would average instead."""
    folder = tmp_path_factory.mktemp("longrope") / "tiny-128k"
    return write_tiny_checkpoint(folder, "mini-128k", layers=1, std=0.15)


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    return [int(token) for token in np.random.default_rng(7).integers(3, 250, PAST)]


class Bundles:
    """Bundles for a context up to 4,096 tokens and for one past it, each built once."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self.checkpoint = checkpoint
        self.folder = folder

    def __call__(self, target: str, context: int) -> Path:
        place = self.folder / f"{target}-{context}"
        return place if place.exists() else build_for(target, str(self.checkpoint), place, context=context)


@pytest.fixture(scope="module")
def bundles(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    return Bundles(checkpoint, tmp_path_factory.mktemp("bundles"))


class Oracle:
    """Fresh prefills in transformers with the dequantised weights; each computed once."""

    def __init__(self, checkpoint: Path, bundles: Bundles) -> None:
        self._model = transformers_model(checkpoint, bundles("cpu", ORIGINAL) / ARTIFACT_FOLDER)
        self._known: dict[tuple[int, ...], Floats] = {}

    def next_logits(self, tokens: list[int]) -> Floats:
        """Logits of the token after `tokens`, float32 [vocabulary]."""
        key = tuple(tokens)
        if key not in self._known:
            self._known[key] = expected_logits(self._model, tokens, last=1)[-1]
        return self._known[key]

    def all_logits(self, tokens: list[int]) -> Floats:
        """Logits after each of `tokens`, float32 [tokens, vocabulary]."""
        return expected_logits(self._model, tokens)


@pytest.fixture(scope="module")
def oracle(checkpoint: Path, bundles: Bundles) -> Oracle:
    return Oracle(checkpoint, bundles)


def check(oracle: Oracle, prompt: list[int], tokens: list[int]) -> None:
    """Each token is the most likely one after those before it, or as good as that."""
    assert tokens
    for place, token in enumerate(tokens):
        logits = oracle.next_logits(prompt + tokens[:place])
        assert logits[token] >= logits.max() - TOLERANCE * float(np.ptp(logits)), f"token {place}"


def test_the_factors_matter_here(checkpoint: Path, oracle: Oracle, prompt: list[int]) -> None:
    """The oracle tells the short factors from the long ones by more than the tolerance."""
    before = oracle.next_logits(prompt[:ORIGINAL])
    after = oracle.next_logits(prompt[: ORIGINAL + 1])
    shifted = oracle.next_logits(prompt[1 : ORIGINAL + 1])
    assert np.abs(before - after).max() > TOLERANCE * np.ptp(before)
    assert np.abs(shifted - after).max() > TOLERANCE * np.ptp(after)


@pytest.mark.parametrize("target", (*SWITCHING, *CAPPED))
def test_a_prompt_as_long_as_the_original_context_allows(
    bundles: Bundles, oracle: Oracle, prompt: list[int], target: str
) -> None:
    check(oracle, prompt[:4090], greedy(engine_of(bundles(target, ORIGINAL)), prompt[:4090], 6))


@pytest.mark.parametrize("target", SWITCHING)
@pytest.mark.parametrize("length", PROMPTS)
def test_a_bundle_past_the_original_context(
    bundles: Bundles, oracle: Oracle, prompt: list[int], target: str, length: int
) -> None:
    """From 4,095 tokens the third token of the answer is past the switch."""
    check(oracle, prompt[:length], greedy(engine_of(bundles(target, PAST)), prompt[:length], 4))


@pytest.mark.parametrize("target", SWITCHING)
def test_a_text_that_is_rewound_across_the_original_context(
    bundles: Bundles, oracle: Oracle, prompt: list[int], target: str
) -> None:
    cache = engine_of(bundles(target, PAST)).open_cache(ORIGINAL + 10)
    for kept, total in ((0, ORIGINAL + 1), (ORIGINAL - 6, ORIGINAL - 1), (ORIGINAL - 1, ORIGINAL + 1)):
        cache.rewind(kept)
        grow(cache, prompt[kept:total])
        check(oracle, prompt[:total], [cache.next_greedy()])


@pytest.mark.parametrize("target", SWITCHING)
@pytest.mark.parametrize("length", [ORIGINAL, ORIGINAL + 1])
def test_a_text_is_scored_as_one_of_its_length(
    bundles: Bundles, oracle: Oracle, prompt: list[int], target: str, length: int
) -> None:
    """Its first tokens too are rotated by the factors of the whole, wherever the pieces end."""
    bundle = bundles(target, PAST)
    text = prompt[:length]
    scores = list(Session(bundle, read_manifest(bundle), provider=PROVIDER).score(text))
    logits = oracle.all_logits(text)
    for place in (40, 300, 3000, length - 1):
        row = logits[place - 1].astype(np.float64)
        expected = row[text[place]] - row.max() - np.log(np.exp(row - row.max()).sum())
        assert scores[place].logprob == pytest.approx(expected, abs=TOLERANCE * float(np.ptp(row)))


@pytest.mark.parametrize("target", CAPPED)
def test_a_context_past_the_original_one_is_refused_where_the_engine_cannot(
    checkpoint: Path, tmp_path: Path, target: str
) -> None:
    with pytest.raises(NotSupportedError, match=r"context 4097: .*") as caught:
        build_for(target, str(checkpoint), tmp_path / "bundle", context=ORIGINAL + 1)
    assert "--context 4096" in caught.value.hint


@pytest.mark.parametrize("target", (*SWITCHING, *CAPPED))
def test_the_runtime_never_crosses_what_the_bundle_serves(bundles: Bundles, target: str) -> None:
    bundle = bundles(target, ORIGINAL)
    session = Session(bundle, read_manifest(bundle), provider=PROVIDER)
    with pytest.raises(DoesNotFitError, match="the context is 4096 tokens"):
        session.stream("a " * 5000)
