"""Divergences against PyTorch's own, and what must hold of every one of them."""

import tracemalloc
from collections.abc import Iterable, Iterator

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgephi.errors import QualityGateError
from edgephi.reference.comparison import divergence as module
from edgephi.reference.comparison.divergence import TokenDivergences, token_divergences

Floats = NDArray[np.float32]


@st.composite
def texts(draw: st.DrawFn) -> tuple[Floats, Floats, list[int]]:
    """Logits P and Q, [tokens, vocabulary] each, and the token after each, -1 for none."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 12)))
    values = st.floats(-60, 60, width=32)
    p, q = (draw(arrays.arrays(np.float32, shape, elements=values)) for _ in range(2))
    following = draw(st.lists(st.integers(-1, shape[1] - 1), min_size=shape[0], max_size=shape[0]))
    return p, q, following


def divergence(blocks: Iterable[tuple[Floats, Floats]], following: list[int]) -> TokenDivergences:
    return token_divergences(blocks, np.array(following), pairs=[(0, 1)])[0]


def assert_same_as_pytorch(ours: TokenDivergences, p: Floats, q: Floats, following: list[int]) -> None:
    log_p, log_q = (torch.log_softmax(torch.from_numpy(x).double(), dim=-1) for x in (p, q))
    kl = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    np.testing.assert_allclose(ours.kl, kl, rtol=1e-9, atol=1e-12)
    # Ties for the most likely token fall to the first, in NumPy; PyTorch promises nothing.
    same = _log_softmax(p).argmax(-1) == _log_softmax(q).argmax(-1)
    np.testing.assert_array_equal(ours.same_top, same)
    ids = torch.tensor(following)
    for found, logs in ((ours.surprise_from, log_p), (ours.surprise_to, log_q)):
        expected = torch.nn.functional.nll_loss(logs, ids, reduction="none", ignore_index=-1)
        expected[ids < 0] = torch.nan
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def _log_softmax(x: Floats) -> NDArray[np.float64]:
    shifted = x.astype(np.float64) - x.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


@given(texts(), st.integers(1, 9))
def test_agrees_with_pytorch_however_the_text_is_cut(
    text: tuple[Floats, Floats, list[int]], step: int
) -> None:
    p, q, following = text
    blocks = [(p[start : start + step], q[start : start + step]) for start in range(0, len(p), step)]
    assert_same_as_pytorch(divergence(blocks, following), p, q, following)


@given(texts(), st.integers(-8, 8))
def test_nothing_diverges_from_itself_even_shifted(
    text: tuple[Floats, Floats, list[int]], shift: int
) -> None:
    p, _, following = text
    p = np.round(p)  # so that the shift is exact in float32
    same = divergence([(p, p + np.float32(shift))], following)
    assert same.kl.max() == pytest.approx(0, abs=1e-13)
    assert same.same_top.all()
    np.testing.assert_allclose(same.surprise_to, same.surprise_from, rtol=1e-9, atol=1e-12)


def test_small_divergences_are_not_lost_in_rounding() -> None:
    rng = np.random.default_rng(0)
    p = rng.normal(size=(50, 4000)).astype(np.float32) * 3
    q = p + rng.normal(size=p.shape).astype(np.float32) * np.float32(1e-5)
    following = rng.integers(0, 4000, 50).tolist()
    ours = divergence([(p, q)], following)
    assert 0 < ours.kl.mean() < 1e-9
    assert_same_as_pytorch(ours, p, q, following)


def test_one_pass_measures_several_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLOAT64_BLOCK_BYTES", 3 * 30 * 8)
    rng = np.random.default_rng(1)
    original, quantised, engine = (rng.normal(size=(20, 30)).astype(np.float32) for _ in range(3))
    following = rng.integers(0, 30, 20)
    cuts = [(0, 7), (7, 8), (8, 20)]
    blocks = [tuple(x[a:b] for x in (original, quantised, engine)) for a, b in cuts]
    measured = token_divergences(blocks, following, pairs=[(1, 2), (0, 1), (0, 2)])
    pairs = [(quantised, engine), (original, quantised), (original, engine)]
    for ours, (p, q) in zip(measured, pairs, strict=True):
        assert_same_as_pytorch(ours, p, q, following.tolist())


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_broken_logit_fails_the_gate_and_says_where(broken: float) -> None:
    p = np.zeros((6, 4), np.float32)
    q = p.copy()
    q[4, 2] = broken
    for pair in ((p, q), (q, p)):
        with pytest.raises(QualityGateError, match="at token 4"):
            divergence([(pair[0][:3], pair[1][:3]), (pair[0][3:], pair[1][3:])], [0] * 6)


def test_shapes_that_do_not_fit() -> None:
    p = np.zeros((3, 4), np.float32)
    with pytest.raises(ValueError, match="one shape"):
        divergence([(p, p[:, :2])], [0, 0, 0])
    with pytest.raises(ValueError, match="for 4 tokens, found 3"):
        divergence([(p, p)], [0, 0, 0, 0])
    with pytest.raises(ValueError, match="for 2 tokens, found more"):
        divergence([(p, p)], [0, 0])


def test_memory_is_flat_in_the_length_of_the_text() -> None:
    vocabulary = 50_000
    row = np.zeros((1, vocabulary), np.float32)

    def blocks(tokens: int) -> Iterator[tuple[Floats, Floats]]:
        for _ in range(0, tokens, 16):
            block = np.repeat(row, 16, axis=0)
            yield block, block

    def peak(tokens: int) -> int:
        tracemalloc.start()
        try:
            divergence(blocks(tokens), [0] * tokens)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(160) < peak(32) + (1 << 20)
    assert peak(32) < 40 << 20
