"""The proof: original weights, quantised weights and the engine on the same text, held side by side."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgephi.bundle.manifest import ARTIFACT_FOLDER, OWN_EXPORTER, Certificate, Divergence, Manifest, Probe
from edgephi.checkpoint.checkpoint import Checkpoint, CheckpointWeights
from edgephi.checkpoint.tokenizer import encode
from edgephi.declared.recipe import QualityGate, Question
from edgephi.errors import QualityGateError
from edgephi.export.exporter import exporter
from edgephi.processes.ask import ask
from edgephi.reference.divergence import divergences
from edgephi.reference.evaluation_text import (
    EVALUATION_TEXT,
    TOKENS,
    Domain,
    EvaluationLevel,
    evaluation_tokens,
)
from edgephi.reference.forward import (
    LOGITS_BLOCK_TOKENS,
    REFERENCE,
    Weights,
    final_hidden_states,
    logits_blocks,
)
from edgephi.runtime.proof.clear_answer import ClearAnswer
from edgephi.runtime.proof.logits import Computed, LogitsQuestion, UserQuestion
from edgephi.steps import Step

NOT_ON_PROVIDER = "not run on its provider"
"""The certificate's note when another provider computed the same artifact, because its own is not here."""

# Sums depend on the order in which threads finish: fewer digits are the same each time.
_SIGNIFICANT_DIGITS = 3
_LOGIT_BYTES = 4


@dataclass(frozen=True)
class Proof:
    """What was measured of a bundle, and what it must answer on a device; None where it was not asked."""

    certificate: Certificate
    probe: Probe | None


def certify(
    checkpoint: Checkpoint,
    bundle: Path,
    manifest: Manifest,
    *,
    level: EvaluationLevel,
    domain: Domain,
    step: Step,
    question: Question | None = None,
    scratch: Path | None = None,
) -> Proof:
    """Measure the bundle in the folder `bundle` against the checkpoint that it was made from.

    The engine also answers `question`, whose beginning becomes the bundle's probe.

    Memory is a block of weights, the activations of the text and a block of logits; the engine runs in a
    process of its own, and its logits (`logits_bytes` of them) wait in a temporary file in the folder
    `scratch`, or in the system's own one. Raises EdgephiError when the engine cannot run the bundle here,
    and QualityGateError when its logits are not finite.
    """
    architecture = checkpoint.architecture
    tokens = evaluation_tokens(
        lambda text: encode(checkpoint.folder, text), level, context=manifest.limits.context, domain=domain
    )
    versions: list[Weights] = [CheckpointWeights(checkpoint)]
    if manifest.provenance.exporter == OWN_EXPORTER:
        artifact = bundle / ARTIFACT_FOLDER
        versions.append(exporter(manifest.target.engine).artifact_weights(artifact, architecture))
    with tempfile.TemporaryDirectory(prefix="edgephi-verify-", dir=scratch) as folder:
        engine_logits = Path(folder) / "logits"
        row_bytes = architecture.vocabulary_size * _LOGIT_BYTES
        with step("verify: engine", len(tokens) * row_bytes) as done:
            computed = run_engine(bundle, tokens, question, engine_logits, done)
        # A block's logits take the head, which is about as much work as a layer.
        block_count = -(-len(tokens) // LOGITS_BLOCK_TOKENS)
        with step("verify: reference", len(versions) * (architecture.layers + block_count)) as done:
            hidden = final_hidden_states(versions, [tokens], progress=lambda *_: done(1))
            computed_blocks = [
                _counted(logits_blocks(weights, states), done)
                for weights, states in zip(versions, hidden, strict=True)
            ]
            measured_blocks = _read_blocks(engine_logits, len(tokens), architecture.vocabulary_size)
            blocks = zip(*computed_blocks, measured_blocks, strict=True)
            export_error = quantisation_loss = None
            if len(versions) == 1:
                (end_to_end,) = divergences(blocks, tokens, pairs=[(0, 1)])
            else:
                export_error, quantisation_loss, end_to_end = map(
                    _rounded, divergences(blocks, tokens, pairs=[(1, 2), (0, 1), (0, 2)])
                )
    certificate = Certificate(
        level=level,
        text=f"{EVALUATION_TEXT} ({domain})",
        tokens=len(tokens),
        reference=REFERENCE,
        engine=computed.engine,
        provider=computed.provider,
        note="" if computed.provider == manifest.target.provider else NOT_ON_PROVIDER,
        export_error=export_error,
        quantisation_loss=quantisation_loss,
        end_to_end=_rounded(end_to_end),
    )
    return Proof(certificate, probe_of(question, computed.answer))


def probe_of(question: Question | None, answer: ClearAnswer | None) -> Probe | None:
    """What a device must hear: the clear beginning of the answer. None where there is no answer."""
    if question is None or answer is None:
        return None
    return Probe(question.prompt, expected=answer.text, max_tokens=answer.max_tokens)


def logits_bytes(vocabulary_size: int, level: EvaluationLevel) -> int:
    """The most bytes that `certify` puts into its temporary file."""
    return TOKENS[level] * vocabulary_size * _LOGIT_BYTES


def check_gate(certificate: Certificate, gate: QualityGate) -> None:
    """Raise QualityGateError, naming the number and the limit, when a measured number is past the gate."""
    if certificate.end_to_end is None:
        return
    largest = {
        "export error": (certificate.export_error, gate.export_error_kl),
        "quantisation loss": (certificate.quantisation_loss, gate.quantisation_loss_kl),
        "end to end": (certificate.end_to_end, gate.end_to_end_kl),
    }
    for name, (measured, limit) in largest.items():
        if measured is not None and measured.kl_mean > limit:
            raise QualityGateError(
                f"{name}: mean KL {measured.kl_mean:.3g} is above the recipe's limit {limit:g}",
                hint=_GATE_HINTS[name],
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


def run_engine(
    bundle: Path,
    tokens: list[int],
    question: Question | None,
    output: Path,
    done: Callable[[int], None],
) -> Computed:
    """Have the engine write its logits for the text to `output`, and answer the question.

    `done` is told the bytes that have been written since it was last told. Raises what the engine's process
    ends with.
    """
    asked = None if question is None else UserQuestion(question.prompt, question.max_tokens)
    return ask(
        LogitsQuestion(str(bundle), str(output), tuple(tokens), asked),
        Computed,
        who="the engine's process, which computes logits,",
        hint="free some memory, or build with --verify off and verify on a larger machine",
        done=done,
    )


def _counted(
    blocks: Iterator[NDArray[np.float32]], done: Callable[[int], None]
) -> Iterator[NDArray[np.float32]]:
    """The same blocks; `done` is told of each."""
    for block in blocks:
        done(1)
        yield block


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
