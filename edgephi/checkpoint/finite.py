"""Weights that are not finite, or as good as that: which tensor of a checkpoint has them."""

import os

import numpy as np

from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.checkpoint.weights.safetensors import TensorEntry, open_shard, read_bytes, to_float32
from edgephi.errors import BadCheckpointError

_BLOCK_BYTES = 8 << 20
# No scale of float16 reaches it, with 8 bits of code.
_LARGEST_WEIGHT = 255 * float(np.finfo(np.float16).max)


def not_finite(entry: TensorEntry, found: str) -> BadCheckpointError:
    """The error for a tensor in which `found` was found."""
    return BadCheckpointError(
        f"{entry.file.name}: tensor {entry.name}: expected finite weights, found {found}",
        hint="the checkpoint is damaged or was saved by a diverged run; fetch or export it again",
    )


def check_finite(checkpoint: Checkpoint) -> None:
    """Raise BadCheckpointError for the first tensor with NaN, infinity, or a weight that no format can hold.

    Reads the whole checkpoint: for when it is known that something is wrong.
    """
    for entry in checkpoint.tensors.values():
        peak = _peak(entry)
        if not np.isfinite(peak):
            raise not_finite(entry, "NaN or infinity")
        if peak > _LARGEST_WEIGHT:
            raise not_finite(entry, f"a weight of {peak:.3g}, which is past float16's range")


def _peak(entry: TensorEntry) -> float:
    """The largest absolute value of a tensor, NaN when there is one."""
    descriptor = open_shard(entry.file)
    try:
        peak = np.float32(0)
        for start in range(0, entry.size, _BLOCK_BYTES):
            raw = read_bytes(
                descriptor, entry.start + start, min(_BLOCK_BYTES, entry.size - start), file=entry.file
            )
            peak = np.maximum(peak, np.abs(to_float32(raw, entry.dtype)).max())  # keeps NaN
    finally:
        os.close(descriptor)
    return float(peak)
