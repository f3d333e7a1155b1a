"""The proof: original weights, quantised weights and the engine on the same text, held side by side."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.checkpoint import Checkpoint, CheckpointWeights
from edgephi.checkpoint.tokenizer import encode
from edgephi.errors import BadBundleError, DoesNotFitError, EdgephiError, NotSupportedError, QualityGateError
from edgephi.export.engines import exporter
from edgephi.manifest import ARTIFACT_FOLDER, Certificate, Divergence, Manifest
from edgephi.recipe import Gate
from edgephi.reference.divergence import divergences
from edgephi.reference.evaluation_text import EVALUATION_TEXT, Domain, EvaluationLevel, evaluation_tokens
from edgephi.reference.forward import LOGITS_BLOCK_TOKENS, REFERENCE, final_hidden_states, logits_blocks

Progress = Callable[[int, int], None]
"""Told how many steps are done, and how many there are."""

# Sums depend on the order in which threads finish: fewer digits are the same each time.
_SIGNIFICANT_DIGITS = 3


def certify(
    checkpoint: Checkpoint,
    bundle: Path,
    manifest: Manifest,
    *,
    level: EvaluationLevel,
    domain: Domain,
    progress: Progress | None = None,
) -> Certificate:
    """Measure the bundle in the folder `bundle` against the checkpoint that it was made from.

    Memory is a block of weights, the activations of the text and a block of logits; the engine runs in a
    process of its own. Raises EdgephiError when the engine cannot run the bundle here, and QualityGateError
    when its logits are not finite.
    """
    architecture = checkpoint.architecture
    tokens = evaluation_tokens(
        lambda text: encode(checkpoint.folder, text), level, context=manifest.limits.context, domain=domain
    )
    original = CheckpointWeights(checkpoint)
    quantised = exporter(manifest.target.engine).artifact_weights(bundle / ARTIFACT_FOLDER, architecture)
    with tempfile.TemporaryDirectory(prefix="edgephi-verify-") as scratch:
        engine_logits = Path(scratch) / "logits"
        engine = _run_engine(bundle, tokens, engine_logits)
        hidden = final_hidden_states([original, quantised], tokens, progress=progress)
        blocks = zip(
            logits_blocks(original, hidden[0]),
            logits_blocks(quantised, hidden[1]),
            _read_blocks(engine_logits, len(tokens), architecture.vocabulary_size),
            strict=True,
        )
        export_error, quantisation_loss, end_to_end = divergences(
            blocks, tokens, pairs=[(1, 2), (0, 1), (0, 2)]
        )
    return Certificate(
        level=level,
        text=f"{EVALUATION_TEXT} ({domain})",
        tokens=len(tokens),
        reference=REFERENCE,
        engine=engine,
        export_error=_rounded(export_error),
        quantisation_loss=_rounded(quantisation_loss),
        end_to_end=_rounded(end_to_end),
    )


def check_gate(certificate: Certificate, gate: Gate) -> None:
    """Raise QualityGateError, naming the number and the limit, when a measured number is past the gate."""
    if certificate.export_error is None:
        return
    assert certificate.quantisation_loss is not None and certificate.end_to_end is not None  # noqa: S101
    largest = {
        "export error: mean KL": (certificate.export_error.kl_mean, gate.export_error_kl),
        "quantisation loss: mean KL": (certificate.quantisation_loss.kl_mean, gate.quantisation_loss_kl),
        "end to end: mean KL": (certificate.end_to_end.kl_mean, gate.end_to_end_kl),
    }
    for name, (measured, limit) in largest.items():
        if measured > limit:
            raise QualityGateError(
                f"{name} {measured:.3g} is above the recipe's limit {limit:g}",
                hint=_GATE_HINTS[name.partition(":")[0]],
            )
    if certificate.end_to_end.top1 < gate.end_to_end_top1:
        raise QualityGateError(
            f"end to end: top-1 agreement {certificate.end_to_end.top1:.3f} is below the recipe's limit "
            f"{gate.end_to_end_top1:g}",
            hint=_GATE_HINTS["end to end"],
        )


_FINER = "use smaller groups (group_size = 32) or 8 bits for head and embedding in a recipe of your own"
_GATE_HINTS = {
    "export error": "the engine computes something else than the reference: please report this",
    "quantisation loss": _FINER,
    "end to end": _FINER,
}


def _run_engine(bundle: Path, tokens: list[int], output: Path) -> str:
    """Have the engine write its logits for the text to `output`; returns the engine's name and version."""
    command = [sys.executable, "-m", "edgephi.runtime.logits", str(bundle), str(output)]
    process = subprocess.run(command, input=json.dumps(tokens), capture_output=True, text=True, check=False)
    if process.returncode == 0:
        return process.stdout.strip()
    if process.returncode < 0:
        raise DoesNotFitError(
            f"the engine was killed by signal {-process.returncode} while it computed logits",
            hint="free some memory, or build with --verify off and verify on a larger machine",
        )
    message, _, hint = process.stderr.strip().rpartition("\n")
    kinds: dict[int, type[EdgephiError]] = {3: NotSupportedError, 4: BadBundleError}
    raise kinds.get(process.returncode, EdgephiError)(message or hint, hint=hint)


def _read_blocks(file: Path, tokens: int, vocabulary: int) -> Iterator[NDArray[np.float32]]:
    """Logits from a file, float32 [tokens, vocabulary], in the reference's blocks."""
    with file.open("rb") as data:
        for start in range(0, tokens, LOGITS_BLOCK_TOKENS):
            size = min(LOGITS_BLOCK_TOKENS, tokens - start)
            yield np.fromfile(data, np.float32, size * vocabulary).reshape(size, vocabulary)


def _rounded(divergence: Divergence) -> Divergence:
    def few_digits(number: float) -> float:
        return float(f"{number:.{_SIGNIFICANT_DIGITS}g}")

    return Divergence(
        kl_mean=few_digits(divergence.kl_mean),
        kl_max=few_digits(divergence.kl_max),
        top1=round(divergence.top1, 4),
        perplexity_from=few_digits(divergence.perplexity_from),
        perplexity_to=few_digits(divergence.perplexity_to),
    )
