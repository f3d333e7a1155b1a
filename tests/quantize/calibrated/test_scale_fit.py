"""Scales that fit their codes: held against least squares as NumPy solves them, compiled and not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgephi.quantize.calibrated import compiled_scale_fit, error_feedback, scale_fit
from edgephi.quantize.calibrated.error_feedback import BLOCK_COLUMNS, Feedback, column_blocks
from tests.property_profile import examples
from tests.quantize.calibrated.test_error_feedback import (
    Floats,
    alike_inputs,
    feedback_from,
    matrices,
    spanning_lines,
    values_of,
)

Exact = NDArray[np.float64]
moving = pytest.mark.parametrize("move_offsets", [False, True])


def product_errors(weights: Floats, values: Exact, feedback: Feedback) -> Exact:
    """The squared error of each row's products, as far as blocks of columns are known: float64 [rows]."""
    parts = [
        np.einsum("ri,ij,rj->r", error, hessian.astype(float), error)
        for block, hessian in zip(column_blocks(weights.shape[1]), feedback.hessians, strict=True)
        for error in [values[:, block] - weights[:, block]]
    ]
    return np.sum(parts, axis=0)  # type: ignore[no-any-return]


def coded(columns: int, size: int) -> tuple[Floats, Floats, Floats, Floats, Feedback]:
    """Weights, their codes that make up for each other's errors, lines, and what these came from."""
    feedback = feedback_from(alike_inputs(600, columns))
    weights = np.random.default_rng(4).standard_t(4, (30, columns)).astype(np.float32)
    lines = spanning_lines(weights, size)
    codes = error_feedback.feedback_codes(weights, *lines, feedback, 16)
    return weights, codes.astype(np.float32), *lines, feedback


@moving
def test_one_group_has_the_line_of_least_squares(move_offsets: bool) -> None:
    weights, codes, scales, offsets, feedback = coded(BLOCK_COLUMNS, BLOCK_COLUMNS)
    fitted = scale_fit.fitted_lines(weights, codes, scales, offsets, feedback, move_offsets=move_offsets)
    root = np.linalg.cholesky(feedback.hessians[0].astype(float)).T
    for row, numbers in enumerate(codes.astype(float)):
        directions = [root @ numbers, root @ np.ones(BLOCK_COLUMNS)][: 1 + move_offsets]
        wanted = root @ (weights[row] - (0 if move_offsets else offsets[row]))
        least, *_ = np.linalg.lstsq(np.stack(directions, axis=1), wanted, rcond=None)
        found = [lines[row, 0] for lines in fitted][: len(least)]
        np.testing.assert_allclose(found, least, rtol=2e-3)


@moving
@pytest.mark.parametrize("columns", [2 * BLOCK_COLUMNS, BLOCK_COLUMNS + 64])
def test_no_row_loses_by_it(columns: int, move_offsets: bool) -> None:
    weights, codes, scales, offsets, feedback = coded(columns, 32)
    before = product_errors(weights, values_of(codes.astype(np.uint8), scales, offsets), feedback)
    fitted = scale_fit.fitted_lines(weights, codes, scales, offsets, feedback, move_offsets=move_offsets)
    after = product_errors(weights, values_of(codes.astype(np.uint8), *fitted), feedback)
    assert (after <= before * 1.0001).all()
    assert after.sum() < 0.95 * before.sum()


def test_offsets_stay_where_they_may_not_move() -> None:
    weights, codes, scales, offsets, feedback = coded(BLOCK_COLUMNS, 32)
    _, found = scale_fit.fitted_lines(weights, codes, scales, offsets, feedback, move_offsets=False)
    np.testing.assert_array_equal(found, offsets)


@moving
def test_groups_without_a_direction_stay_what_they_are(move_offsets: bool) -> None:
    weights, codes, scales, offsets, feedback = coded(BLOCK_COLUMNS, 32)
    codes[:, 32:64] = 0
    found = scale_fit.fitted_lines(weights, codes, scales, offsets, feedback, move_offsets=move_offsets)
    np.testing.assert_array_equal(found[0][:, 1], scales[:, 1])
    assert all(np.isfinite(each).all() for each in found)


@settings(max_examples=examples(30), deadline=None)
@given(matrices(), st.booleans())
def test_compiled_it_finds_the_same_lines(
    matrix: tuple[Floats, Floats, Floats, Feedback], move_offsets: bool
) -> None:
    weights, scales, offsets, feedback = matrix
    codes = error_feedback.feedback_codes(weights, scales, offsets, feedback, 16).astype(np.float32)
    found, expected = (
        each.fitted_lines(weights, codes, scales, offsets, feedback, move_offsets=move_offsets)
        for each in (compiled_scale_fit, scale_fit)
    )
    for ours, oracle in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, oracle)
