"""A model that is quantised while a text passes through it: each matrix when its inputs are known.

The reference shows what goes into a matrix just before it asks for the matrix's rows. In between, these
weights find the matrix's codes, from those very inputs; the rows that they answer with are the quantised
ones. So each matrix is fitted to what the quantised layers before it really make, and one pass does it all.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgephi.build.calibrating.original_stream import OriginalStream, layer_inputs
from edgephi.build.calibrating.progress_on_disk import ProgressOnDisk
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import ModelTensor
from edgephi.errors import BadCheckpointError
from edgephi.quantize.calibrated.calibrated_codes import CalibratedCodes
from edgephi.quantize.calibrated.catching_up import block_correction, corrected
from edgephi.quantize.calibrated.error_feedback import block_moments, column_blocks, feedback_of
from edgephi.quantize.calibrated.found_rows import FoundFile, FoundRows
from edgephi.quantize.groups import NotFiniteError, restored
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.tensor_plan import TensorPlans
from edgephi.reference.importance import matrix_inputs
from edgephi.reference.workers import share

Floats = NDArray[np.float32]

_BLOCK_WEIGHTS = 1 << 20
_MANY_BITS = 8  # with as many, rounding costs nothing that is worth finding


class QuantisedPrefix:
    """Weights for one pass of the reference, which finds the codes of `calibrated_tensors`.

    `done` is told of each matrix that is found. Raises BadCheckpointError for weights that no code can hold.
    """

    def __init__(
        self,
        plans: TensorPlans,
        original: OriginalStream,
        on_disk: ProgressOnDisk,
        workers: Executor,
        done: Callable[[int], None],
    ) -> None:
        self._plans = plans
        self._original = original
        self._on_disk = on_disk
        self._workers = workers
        self._done = done
        self._mine = threading.local()
        self._shapes = self.architecture.tensor_shapes()
        tensors = calibrated_tensors(self.architecture, plans)
        inputs = matrix_inputs(self.architecture)
        self._fed_by = {name: tensor for name, tensor in inputs.items() if tensor in tensors}
        self._before = layer_inputs(self.architecture.layers)
        self._found = {
            tensor for tensor in tensors if tensor.layer is not None and tensor.layer < on_disk.layers_done
        }

    @property
    def architecture(self) -> Architecture:
        """The shape of the model."""
        return self._original.architecture

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> Floats:
        """Rows as they will be stored, dequantised; as "weighted" stores them where none are found (yet)."""
        plan = self._plans[tensor]
        if tensor in self._found:
            found = FoundRows(self._on_disk.file_of(tensor)).of_rows(start).read(stop - start)
            return restored(found, plan.quantised)
        weights = self._original.rows(tensor, start, stop)
        if plan.scheme is None:
            return weights
        groups = self._quantizer().quantize(weights, plan.of_rows(start, stop))
        return restored(groups, plan.scheme)

    def activation(self, name: str, values: Floats) -> None:
        """Find the codes of the matrix that `values` go into."""
        if name in self._before:
            self._on_disk.save(self._before[name], values)
        elif name in self._fed_by:
            tensor = self._fed_by[name]
            self._find(tensor, values.reshape(len(values), -1))
            self._found.add(tensor)
            self._done(1)

    def _find(self, tensor: ModelTensor, inputs: Floats) -> None:
        """Find a matrix's codes from its inputs [tokens, columns]."""
        rows, columns = self._shapes[tensor]

        def look(block: slice) -> tuple[NDArray[np.float64], Floats]:
            """The moments of a block's inputs, and the correction of its weights."""
            now = np.ascontiguousarray(inputs[:, block])
            return block_moments(now), block_correction(now, self._original.inputs(tensor, len(now), block))

        moments, corrections = zip(*self._workers.map(look, column_blocks(columns)), strict=True)
        feedback = feedback_of(moments)
        seen = np.concatenate([block.diagonal() for block in moments]).astype(np.float32)
        plan = replace(self._plans[tensor], importance=seen)
        file = FoundFile(self._on_disk.file_of(tensor), rows, plan.quantised)
        step = max(1, _BLOCK_WEIGHTS // columns)

        def find(start: int) -> None:
            weights = self._original.rows(tensor, start, min(start + step, rows))
            try:
                with np.errstate(all="ignore"):
                    groups = self._calibrated().quantize(corrected(weights, corrections), plan, feedback)
            except NotFiniteError as cause:
                raise BadCheckpointError(
                    f"{tensor}: expected finite weights, found {cause}",
                    hint="the checkpoint is damaged or was saved by a diverged run; fetch or export it again",
                ) from None
            file.write(start, groups)

        try:
            share(self._workers, find, range(0, rows, step))
        finally:
            file.close()

    def _calibrated(self) -> CalibratedCodes:
        """That of the thread which asks."""
        mine: CalibratedCodes | None = getattr(self._mine, "calibrated", None)
        if mine is None:
            mine = self._mine.calibrated = CalibratedCodes()
        return mine

    def _quantizer(self) -> Quantizer:
        mine: Quantizer | None = getattr(self._mine, "quantizer", None)
        if mine is None:
            mine = self._mine.quantizer = Quantizer()
        return mine


def calibrated_tensors(architecture: Architecture, plans: TensorPlans) -> frozenset[ModelTensor]:
    """The matrices whose codes are found together: those that multiply, and have few bits.

    Not those of experts: few tokens of a text reach each of them, and all their moments are too many to hold.
    """
    shapes = architecture.tensor_shapes()
    return frozenset(
        tensor
        for tensor in matrix_inputs(architecture).values()
        if plans[tensor].quantised.bits < _MANY_BITS and len(shapes[tensor]) == 2
    )
