"""Weights that make up for what is changed in their inputs."""

import numpy as np

from edgephi.quantize.calibrated.catching_up import SHARE, block_correction, corrected
from edgephi.quantize.calibrated.error_feedback import BLOCK_COLUMNS, column_blocks

COLUMNS = BLOCK_COLUMNS + 64
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(40, COLUMNS)).astype(np.float32)
# A third of what goes in is lost, and a noise that nothing can make up for is added.
ORIGINAL = RNG.normal(size=(2000, COLUMNS)).astype(np.float32)
NOW = (ORIGINAL * 0.7 + 0.1 * RNG.normal(size=ORIGINAL.shape)).astype(np.float32)


def lost(weights: np.ndarray) -> float:
    """How far products with the inputs of now are from the original ones."""
    return float(np.square(NOW @ weights.T - ORIGINAL @ WEIGHTS.T).sum())


def corrections(now: np.ndarray, original: np.ndarray) -> list[np.ndarray]:
    return [block_correction(now[:, block], original[:, block]) for block in column_blocks(COLUMNS)]


def test_it_goes_its_share_of_the_way_to_the_best_weights() -> None:
    found = corrected(WEIGHTS, corrections(NOW, ORIGINAL))
    best = np.linalg.lstsq(NOW, ORIGINAL @ WEIGHTS.T, rcond=None)[0].T
    np.testing.assert_allclose(found, WEIGHTS + SHARE * (best - WEIGHTS), atol=0.15)
    assert lost(found) < 0.5 * lost(WEIGHTS)


def test_inputs_that_did_not_change_leave_the_weights() -> None:
    np.testing.assert_array_equal(corrected(WEIGHTS, corrections(NOW, NOW)), WEIGHTS)


def test_silent_inputs_leave_the_weights() -> None:
    silent = np.zeros_like(NOW)
    np.testing.assert_array_equal(corrected(WEIGHTS, corrections(silent, ORIGINAL)), WEIGHTS)


def test_some_rows_are_corrected_as_all_are() -> None:
    found = corrections(NOW, ORIGINAL)
    np.testing.assert_allclose(corrected(WEIGHTS[3:9], found), corrected(WEIGHTS, found)[3:9], rtol=1e-5)
