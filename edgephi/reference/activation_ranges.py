"""The ranges of a model's activations on a text, from one streamed pass of the reference.

The text is that for calibration: a certificate must not be measured on what an encoding was chosen for.
"""

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Architecture
from edgephi.reference.forward import Progress, final_hidden_states, logits_blocks
from edgephi.reference.weights import Weights


def measure_ranges(
    weights: Weights, passages: Sequence[Sequence[int]], *, progress: Progress | None = None
) -> dict[str, tuple[float, float]]:
    """The least and the largest value of every activation that the reference shows, by its name.

    `passages` are token ids of texts of their own, as `final_hidden_states` takes them.
    """
    observed = _Observed(weights)
    (hidden,) = final_hidden_states([observed], passages, progress=progress)
    for _ in logits_blocks(observed, hidden):
        pass
    return observed.extremes


class _Observed:
    """Weights that remember the extremes of the activations that they are shown."""

    def __init__(self, weights: Weights) -> None:
        self.architecture: Architecture = weights.architecture
        self.rows = weights.rows
        self.extremes: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def activation(self, name: str, values: NDArray[np.float32]) -> None:
        """Remember how far `values` reach."""
        low, high = float(values.min()), float(values.max())
        with self._lock:
            least, largest = self.extremes.get(name, (low, high))
            self.extremes[name] = min(low, least), max(high, largest)
