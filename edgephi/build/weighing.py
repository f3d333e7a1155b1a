"""A plan's matrices learn how large their inputs are, on a text, before anything of them is quantised."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgephi.build.plan import Plan
from edgephi.bundle.manifest import CalibrationFacts
from edgephi.checkpoint.checkpoint import Checkpoint, CheckpointWeights
from edgephi.checkpoint.conversation import conversation_renderer
from edgephi.checkpoint.finite import check_finite
from edgephi.checkpoint.tokenizer import encoder
from edgephi.errors import BadCheckpointError
from edgephi.export.stream.one_pass import available_processors
from edgephi.export.stream.quantized_block import restored_rows
from edgephi.export.stream.quantizers import Quantizers, worth_processes
from edgephi.guards.visible import visible
from edgephi.quantize.folding import fold_count, weigh
from edgephi.quantize.groups import NotFiniteError
from edgephi.quantize.tensor_plan import TensorPlan
from edgephi.reference.calibration_text import PASSAGE_TOKENS, CalibrationText, read_calibration
from edgephi.reference.importance import Importance, hash_of, measure_importance
from edgephi.steps import Step

WEIGHTED_TOKENS = 1024
"""So many tokens tell the few channels that carry most of the energy from the others."""

_METHODS = ("weighted", "calibrated")
_DIVERGED = "the checkpoint was saved by a diverged run; fetch or export it again"


@dataclass(frozen=True)
class Weighed:
    """A plan whose matrices know their importance and are folded for it, and what they were measured on."""

    plan: Plan
    calibration: CalibrationFacts | None


def weighed(plan: Plan, checkpoint: Checkpoint, text: Path | None, step: Step) -> Weighed:
    """The plan with what its method needs to know of the matrices' inputs, which may be nothing.

    `text` is the user's, None for ours. Raises BadInputError when that is too little or no text, and
    BadCheckpointError when the model's activations are not finite, or weights cannot be quantised.
    """
    if not any(each.method in _METHODS for each in plan.tensors.values()):
        return Weighed(plan, None)
    calibration = calibration_text(checkpoint, text, WEIGHTED_TOKENS)
    weights = CheckpointWeights(checkpoint)
    passages = [passage.ids for passage in calibration.passages]
    with step("measure inputs", checkpoint.architecture.layers) as done, np.errstate(all="ignore"):
        importance = measure_importance(weights, passages, progress=lambda *_: done(1))
    _check_finite(checkpoint, importance)
    # In processes, as all that is quantised: what is compiled there is gone with them.
    processes = worth_processes(checkpoint.architecture.parameters)
    with (
        step("fold outliers", fold_count(checkpoint.architecture)) as done,
        Quantizers(processes) as quantizers,
    ):

        def rounded(rows: NDArray[np.float32], plan: TensorPlan) -> NDArray[np.float32]:
            raw = rows.reshape(-1).view(np.uint8)
            block = quantizers.mine().quantize(raw, "F32", len(rows), plan, restored_rows)
            found: NDArray[np.float32] = block.regions[0].astype(np.float32, copy=False)
            return found

        threads = available_processors()
        try:
            tensors = weigh(plan.tensors, importance, weights, rounded=rounded, threads=threads, done=done)
        except NotFiniteError as cause:
            check_finite(checkpoint)
            raise BadCheckpointError(
                f"{checkpoint.id}: expected finite weights, found {cause}", hint=_DIVERGED
            ) from None
    facts = CalibrationFacts(
        text=visible(calibration.name),
        text_sha256=calibration.sha256,
        tokens=sum(map(len, passages)),
        importance_sha256=hash_of(importance),
    )
    return Weighed(replace(plan, tensors=tensors), facts)


def calibration_text(
    checkpoint: Checkpoint,
    text: Path | None,
    tokens: int,
    passage_tokens: int = PASSAGE_TOKENS,
    *,
    least: int | None = None,
) -> CalibrationText:
    """What a checkpoint is calibrated on, in its own form and tokens; `text` is the user's, None for ours.

    It is cut into passages of about `passage_tokens` where it has as many. Raises BadInputError when the
    user's has fewer tokens than `least`, or than `tokens` where that is None.
    """
    return read_calibration(
        text,
        encoder(checkpoint.tokenizer.folder),
        conversation_renderer(checkpoint.tokenizer.chat),
        tokens=tokens,
        context=checkpoint.architecture.context,
        passage_tokens=passage_tokens,
        least=least,
    )


def _check_finite(checkpoint: Checkpoint, importance: Importance) -> None:
    """Raise BadCheckpointError, naming the tensor that is to blame, when an input overflowed."""
    for tensor, mean_squares in importance.items():
        if not np.isfinite(mean_squares).all():
            check_finite(checkpoint)
            raise BadCheckpointError(
                f"{checkpoint.id}: expected finite activations, found an overflow in the inputs of {tensor}",
                hint=_DIVERGED,
            )
