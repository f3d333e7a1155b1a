"""Codes that make up for each other's errors: held against GPTQ as its paper writes it, compiled and not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgephi.quantize.calibrated import compiled_error_feedback, error_feedback
from edgephi.quantize.calibrated.error_feedback import (
    BLOCK_COLUMNS,
    DAMPING,
    SHRINKAGE,
    Feedback,
    block_moments,
    column_blocks,
    feedback_of,
)
from tests.property_profile import examples

Floats = NDArray[np.float32]


def alike_inputs(tokens: int, columns: int, *, seed: int = 0) -> Floats:
    """Inputs [tokens, columns] as layers make them: what one channel says, others say too."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(tokens, columns // 4))
    mixed = causes @ rng.normal(size=(columns // 4, columns)) + rng.normal(size=(tokens, columns))
    return (mixed * np.exp(rng.normal(0, 1, columns))).astype(np.float32)


def feedback_from(inputs: Floats) -> Feedback:
    return feedback_of([block_moments(inputs[:, block]) for block in column_blocks(inputs.shape[1])])


def spanning_lines(weights: Floats, size: int) -> tuple[Floats, Floats]:
    """Scales and offsets [rows, groups] of 16 codes between the least and the largest weight."""
    grouped = weights.reshape(len(weights), -1, size)
    low, high = grouped.min(axis=2), grouped.max(axis=2)
    return ((high - low) / np.float32(15)).astype(np.float32), low


def values_of(codes: NDArray[np.uint8], scales: Floats, offsets: Floats) -> NDArray[np.float64]:
    size = codes.shape[1] // scales.shape[1]
    values: NDArray[np.float64] = codes * np.repeat(scales, size, axis=1).astype(float) + np.repeat(
        offsets, size, axis=1
    )
    return values


def textbook_gptq(weights: Floats, inputs: Floats, scales: Floats, offsets: Floats) -> NDArray[np.float64]:
    """Algorithm 1 of arXiv:2210.17323 in float64 on one block, column by column with the inverse updated."""
    rows, columns = weights.shape
    size = columns // scales.shape[1]
    hessian = inputs.astype(float).T @ inputs / len(inputs)
    hessian += SHRINKAGE * (np.diag(hessian.diagonal()) - hessian)
    hessian += DAMPING * hessian.diagonal().mean() * np.eye(columns)
    left, stored = weights.astype(float), np.empty((rows, columns))
    inverse = np.linalg.inv(hessian)
    todo = list(np.argsort(-hessian.diagonal(), kind="stable"))
    while todo:
        j = todo.pop(0)
        scale, offset = scales[:, j // size].astype(float), offsets[:, j // size].astype(float)
        code = np.clip(np.rint((left[:, j] - offset) / scale), 0, 15)
        stored[:, j] = code * scale + offset
        error = (left[:, j] - stored[:, j]) / inverse[j, j]
        left -= np.outer(error, inverse[j])
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]  # Gaussian elimination of j
    return stored


def output_error(weights: Floats, stored: NDArray[np.float64], inputs: Floats) -> float:
    return float(np.square((stored - weights) @ inputs.T.astype(float)).sum())


def test_it_does_what_the_paper_does() -> None:
    inputs = alike_inputs(500, BLOCK_COLUMNS)
    weights = np.random.default_rng(1).standard_t(4, (40, BLOCK_COLUMNS)).astype(np.float32)
    scales, offsets = spanning_lines(weights, 32)
    codes = error_feedback.feedback_codes(weights, scales, offsets, feedback_from(inputs), 16)
    expected = textbook_gptq(weights, inputs, scales, offsets)
    found = values_of(codes, scales, offsets)
    # Here and there float32 rounds the other way, and what comes after it differs.
    assert np.isclose(found, expected, atol=1e-5).mean() > 0.99
    assert output_error(weights, found, inputs) == pytest.approx(
        output_error(weights, expected, inputs), rel=0.01
    )


@pytest.mark.parametrize("columns", [BLOCK_COLUMNS, 4 * BLOCK_COLUMNS + 64])
def test_products_of_inputs_that_are_alike_lose_half_as_much(columns: int) -> None:
    inputs = alike_inputs(3000, columns)
    weights = np.random.default_rng(2).standard_t(4, (50, columns)).astype(np.float32)
    scales, offsets = spanning_lines(weights, 32)
    codes = error_feedback.feedback_codes(weights, scales, offsets, feedback_from(inputs), 16)
    grouped = (weights.reshape(50, -1, 32) - offsets[:, :, None]) / scales[:, :, None]
    nearest = np.rint(grouped).reshape(50, columns).astype(np.uint8)
    others = alike_inputs(3000, columns)[1500:]  # of the same layer, which no code has seen
    found = output_error(weights, values_of(codes, scales, offsets), others)
    assert found < 0.5 * output_error(weights, values_of(nearest, scales, offsets), others)


def test_inputs_that_are_not_alike_change_nothing() -> None:
    columns = 2 * BLOCK_COLUMNS
    feedback = feedback_of([np.eye(BLOCK_COLUMNS)] * 2)
    weights = np.random.default_rng(3).normal(size=(20, columns)).astype(np.float32)
    scales, offsets = spanning_lines(weights, 64)
    codes = error_feedback.feedback_codes(weights, scales, offsets, feedback, 16)
    step = np.repeat(scales, 64, axis=1)
    assert (np.abs(values_of(codes, scales, offsets) - weights) <= 0.5001 * step).all()


def test_silent_inputs_leave_finite_shares() -> None:
    inputs = alike_inputs(300, 2 * BLOCK_COLUMNS)
    inputs[:, 3] = 0
    inputs[:, BLOCK_COLUMNS:] = 0
    feedback = feedback_from(inputs)
    assert np.isfinite(feedback.shares).all()
    assert sorted(feedback.order) == list(range(2 * BLOCK_COLUMNS))


@st.composite
def matrices(draw: st.DrawFn) -> tuple[Floats, Floats, Floats, Feedback]:
    """Weights, scales, offsets and feedback; with tiny and silent groups, and blocks that are not whole."""
    size = draw(st.sampled_from([16, 32, 64, 128]))
    rows, groups = draw(st.integers(1, 140)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.standard_t(draw(st.sampled_from([2, 4, 50])), (rows, groups * size)).astype(np.float32)
    weights *= np.float32(10.0 ** draw(st.integers(-12, 3)))
    weights[rng.random(rows) < 0.1] = 0
    scales, offsets = spanning_lines(weights, size)
    scales[rng.random(scales.shape) < 0.05] = 0
    scales *= np.where(rng.random(scales.shape) < 0.3, -1, 1).astype(np.float32)
    seed = draw(st.integers(0, 100))
    return weights, scales, offsets, feedback_from(alike_inputs(256, groups * size, seed=seed))


@settings(max_examples=examples(40), deadline=None)
@given(matrices(), st.sampled_from([16, 32, 64]))
def test_compiled_it_finds_the_same_codes(
    matrix: tuple[Floats, Floats, Floats, Feedback], levels: int
) -> None:
    weights, scales, offsets, feedback = matrix
    np.testing.assert_array_equal(
        compiled_error_feedback.feedback_codes(weights, scales, offsets, feedback, levels),
        error_feedback.feedback_codes(weights, scales, offsets, feedback, levels),
    )
