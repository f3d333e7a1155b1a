"""Finding the codes of all matrices before any is written, in the order in which a text passes them.

An artifact is written in the order of its file, and codes are found in that of the layers. So these are found
first, and wait on the disk.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import edgephi
from edgephi.build.calibrating.original_stream import OriginalStream
from edgephi.build.calibrating.progress_on_disk import ProgressOnDisk
from edgephi.build.calibrating.quantised_prefix import QuantisedPrefix, calibrated_tensors
from edgephi.build.weighing import calibration_text
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.errors import BadInputError
from edgephi.quantize.calibrated.found_rows import FoundRows
from edgephi.quantize.tensor_plan import TensorPlans
from edgephi.reference.forward import Begun, final_hidden_states
from edgephi.reference.workers import one_worker_per_core
from edgephi.steps import Step

CALIBRATED_TOKENS = 8192
"""Twice as many as are needed lose 8 % less on another text."""
LEAST_TOKENS = 4096
"""Fewer tell more of themselves than of the model: with 500, codes are worse than those found one by one."""

_PASSAGE_TOKENS = 256


def calibration_passages(
    plans: TensorPlans, checkpoint: Checkpoint, text: Path | None
) -> tuple[tuple[int, ...], ...]:
    """What to calibrate on, if any plan asks for it: token ids, out of the user's `text`, or ours for None.

    Raises BadInputError when that is too little.
    """
    if not any(plan.method == "calibrated" for plan in plans.values()):
        return ()
    found = calibration_text(checkpoint, text, CALIBRATED_TOKENS, _PASSAGE_TOKENS, least=LEAST_TOKENS)
    passages = tuple(passage.ids for passage in found.passages)
    count = sum(map(len, passages))
    if count < LEAST_TOKENS:  # of ours; the user's is refused before
        raise BadInputError(
            f'{found.name}: expected {LEAST_TOKENS:,} tokens of text for the method "calibrated", found '
            f"{count:,} with this tokenizer",
            hint="give more text with --calibrate, or take --method weighted",
        )
    return passages


def kept_bytes(architecture: Architecture, plans: TensorPlans) -> int:
    """The most bytes that `calibrate` has in its folder at a time."""
    shapes = architecture.tensor_shapes()
    codes = sum(
        rows * columns * (4 if plans[tensor].quantised.bits == 4 else 8) // 8
        + rows * columns // plans[tensor].quantised.group_size * _GROUP_BYTES
        for tensor in calibrated_tensors(architecture, plans)
        for rows, columns in [shapes[tensor]]
    )
    # Twice two hidden states, and the inputs of a layer's matrices.
    attention = architecture.attention
    numbers = 7 * architecture.hidden_size + attention.heads * attention.head_size
    numbers += architecture.feed_forward.active_width
    return codes + CALIBRATED_TOKENS * numbers * 4


def calibrate(
    checkpoint: Checkpoint, plans: TensorPlans, passages: Sequence[Sequence[int]], folder: Path, step: Step
) -> TensorPlans:
    """The plans with the codes that were found; these lie in `folder`, which is made, or gone on with.

    Without passages the plans stay what they are.

    Memory is the text's activations and a block of rows a worker. Raises BadCheckpointError for weights that
    are not finite, and OSError.
    """
    if not passages:
        return plans
    on_disk = ProgressOnDisk(folder, _fingerprint(checkpoint, plans, passages))
    tensors = calibrated_tensors(checkpoint.architecture, plans)
    left = [each for each in tensors if each.layer is None or each.layer >= on_disk.layers_done]
    begun = None
    if on_disk.layers_done:
        begun = Begun(on_disk.layers_done, on_disk.hidden(checkpoint.architecture.hidden_size))
    title = "calibrate" if begun is None else f"calibrate from layer {begun.layer}"
    with step(title, len(left)) as done, one_worker_per_core() as workers:
        original = OriginalStream(checkpoint, plans, on_disk)
        quantised = QuantisedPrefix(plans, original, on_disk, workers, done)
        final_hidden_states([original, quantised], passages, begun=begun)
    found = {each: replace(plans[each], found=FoundRows(on_disk.file_of(each))) for each in tensors}
    return {**plans, **found}


_GROUP_BYTES = 4  # a scale, and a zero point or an offset


def _fingerprint(checkpoint: Checkpoint, plans: TensorPlans, passages: Sequence[Sequence[int]]) -> str:
    """What tells this calibration from any other: weights, plans and text."""
    digest = hashlib.sha256(edgephi.__version__.encode())
    for shard in checkpoint.shards:
        facts = shard.file.stat()
        digest.update(shard.raw)
        digest.update(f"{shard.file.resolve()} {facts.st_size} {facts.st_mtime_ns}".encode())
    digest.update(str(sorted(checkpoint.changes.items())).encode())
    for tensor, plan in sorted(plans.items(), key=lambda item: str(item[0])):
        digest.update(f"{tensor} {plan.scheme} {plan.method}".encode())
        for numbers in (plan.importance, plan.row_factors, plan.column_factors):
            digest.update(b"-" if numbers is None else numbers.tobytes())
    digest.update(str([list(passage) for passage in passages]).encode())
    return digest.hexdigest()
