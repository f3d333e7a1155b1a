"""The search for scales by importance: compiled and not it finds the same, and little better can be found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgephi.quantize import compiled_search, weighted_search
from tests.property_profile import examples

Floats = NDArray[np.float32]


@st.composite
def weighted_blocks(draw: st.DrawFn) -> tuple[Floats, Floats, int]:
    """Weights [rows, columns], importance [columns], a group size; with outliers, zeros, tiny groups."""
    size = draw(st.sampled_from([32, 64, 128]))
    rows, groups = draw(st.integers(1, 70)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.standard_t(draw(st.sampled_from([2, 4, 50])), (rows, groups * size)).astype(np.float32)
    weights *= np.float32(10.0 ** draw(st.integers(-12, 3)))
    weights[rng.random(rows) < 0.1] = 0
    weights[rng.random(weights.shape) < 0.05] = 0
    importance = np.exp(rng.normal(0, draw(st.sampled_from([0.0, 1.0, 4.0])), groups * size))
    return weights, importance.astype(np.float32), size


class TestCompiled:
    @settings(max_examples=examples(60))
    @given(weighted_blocks())
    def test_it_finds_the_same_bits(self, block: tuple[Floats, Floats, int]) -> None:
        weights, importance, size = block
        np.testing.assert_array_equal(
            compiled_search.symmetric_scales(weights, importance, size, 8),
            weighted_search.symmetric_scales(weights, importance, size, 8),
        )
        for name in ("zero_point_scales", "offset_scales"):
            compiled = getattr(compiled_search, name)(weights, importance, size, 16)
            plain = getattr(weighted_search, name)(weights, importance, size, 16)
            np.testing.assert_array_equal(compiled[0], plain[0])
            np.testing.assert_array_equal(compiled[1], plain[1])


def weighted_error(
    x: Floats, importance: Floats, scale: float, low: float, high: float, offset: float = 0.0
) -> float:
    """The error of one group [size] under a scale, with the nearest codes, in float64."""
    s = np.clip(np.rint((x.astype(float) - offset) / scale), low, high) if scale else np.zeros(x.shape)
    return float((importance * (s * scale + offset - x) ** 2).sum())


def line_error(x: Floats, importance: Floats, scale: float, offset: float) -> float:
    """The error of one group [size] on the line that suits best the codes that lie nearest on this one."""
    codes = np.clip(np.rint((x.astype(float) - offset) / scale), 0, 15)
    root = np.sqrt(importance.astype(float))
    line = np.stack([codes, np.ones_like(codes)], axis=1) * root[:, None]
    error: NDArray[np.float64] = line @ np.linalg.lstsq(line, root * x, rcond=None)[0] - root * x
    return float(error @ error)


@pytest.fixture
def groups() -> tuple[Floats, Floats]:
    """Groups [64, 32] of heavy-tailed weights, and an importance [32] that a few inputs dominate."""
    rng = np.random.default_rng(0)
    weights = rng.standard_t(4, (64, 32)).astype(np.float32)
    return weights, np.exp(rng.normal(0, 2, 32)).astype(np.float32)


class TestTheErrorItFinds:
    """Held against all multiples of the spanning scale from 0.3 to 1.3, in steps of a thousandth."""

    def test_of_symmetric_groups(self, groups: tuple[Floats, Floats]) -> None:
        weights, importance = groups
        scales = weighted_search.symmetric_scales(weights, importance, 32, 8)
        found = sum(
            weighted_error(x, importance, s, -8, 7) for x, s in zip(weights, scales[:, 0], strict=True)
        )
        best = 0.0
        for x in weights:
            span = float(np.abs(x).max()) / 8
            tried = np.linspace(0.3, 1.3, 1001)
            best += min(
                weighted_error(x, importance, sign * m * span, -8, 7) for m in tried for sign in (1, -1)
            )
        assert found < 1.05 * best

    def test_of_groups_with_a_zero_point(self, groups: tuple[Floats, Floats]) -> None:
        weights, importance = groups
        scales, zeros = weighted_search.zero_point_scales(weights, importance, 32, 16)
        symmetric = weighted_search.symmetric_scales(weights, importance, 32, 8)
        found = best = plain = 0.0
        for x, s, z, d in zip(weights, scales[:, 0], zeros[:, 0], symmetric[:, 0], strict=True):
            found += weighted_error(x, importance, s, -z, 15 - z)
            plain += weighted_error(x, importance, d, -8, 7)
            span = float(x.max() - x.min()) / 15
            tried = np.linspace(0.3, 1.3, 201)
            best += min(
                weighted_error(x, importance, m * span, -zero, 15 - zero) for m in tried for zero in range(16)
            )
        assert found < 1.07 * best
        assert found < plain

    def test_of_groups_with_an_offset(self, groups: tuple[Floats, Floats]) -> None:
        weights, importance = groups
        scales, offsets = weighted_search.offset_scales(weights, importance, 32, 16)
        zero_scales, zeros = weighted_search.zero_point_scales(weights, importance, 32, 16)
        found = sum(
            weighted_error(x, importance, s, 0, 15, o)
            for x, s, o in zip(weights, scales[:, 0], offsets[:, 0], strict=True)
        )
        best = 0.0
        for x in weights:
            low, span = float(x.min()), float(x.max() - x.min()) / 15
            best += min(
                line_error(x, importance, m * span, low + end * 15 * span * (1 - m))
                for m in np.linspace(0.4, 1.4, 41)
                for end in (0, 0.5, 1)
            )
        assert found < 1.12 * best
        with_zero_points = sum(
            weighted_error(x, importance, s, -z, 15 - z)
            for x, s, z in zip(weights, zero_scales[:, 0], zeros[:, 0], strict=True)
        )
        assert found < 0.9 * with_zero_points
