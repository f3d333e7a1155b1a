"""The proof: original weights, quantised weights and the engine on the same text, held side by side."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgephi.build.gate import check_gate
from edgephi.build.measured import ENGINE, LOGIT_BYTES, ORIGINAL, QUANTISED, ROUNDED, divergences
from edgephi.build.rounded import plainly_rounded
from edgephi.build.switched_adapters.adapted_weights import AdaptedWeights
from edgephi.bundle.certificate import GATE_PASSAGES, GATE_TOKENS, Certificate, QualityGate, TextPart
from edgephi.bundle.manifest import ARTIFACT_FOLDER, OWN_EXPORTER, Manifest
from edgephi.bundle.probe import Probe
from edgephi.checkpoint.adapter.locate_adapter import asked_for, text_for
from edgephi.checkpoint.adapter.low_rank_factors import AdapterFactors
from edgephi.checkpoint.adapter.merged import StrengthenedAdapter
from edgephi.checkpoint.adapter.opened import open_with_adapters
from edgephi.checkpoint.checkpoint import Checkpoint, CheckpointWeights
from edgephi.checkpoint.conversation import conversation_renderer
from edgephi.checkpoint.located import Located
from edgephi.checkpoint.tokenizer import encoder
from edgephi.declared.recipe import ChatSettings, Question, Recipe
from edgephi.errors import BadCheckpointError
from edgephi.export.exporter import exporter
from edgephi.guards.visible import visible
from edgephi.processes.ask import ask
from edgephi.reference.comparison.counted_text import CountedText, counted_text, first_counted
from edgephi.reference.comparison.divergence import TokenDivergences
from edgephi.reference.comparison.summary import gain_over, summary, text_part
from edgephi.reference.evaluation_text import (
    EVALUATION_TEXT,
    PASSAGE_TOKENS,
    PASSAGES,
    Domain,
    EvaluationLevel,
    evaluation_passages,
)
from edgephi.reference.forward import REFERENCE
from edgephi.reference.passages import TokenPassage
from edgephi.reference.weights import Weights
from edgephi.runtime.proof.clear_answer import ClearAnswer
from edgephi.runtime.proof.logits import AskedPassage, Computed, LogitsQuestion, UserQuestion
from edgephi.steps import Step

NOT_ON_PROVIDER = "not run on its provider"
"""The certificate's note when another provider computed the same artifact, because its own is not here."""


@dataclass(frozen=True)
class SwitchedOn:
    """The adapter that a bundle is measured with: its name, its matrices, and the artifact's folder.

    The matrices are those of the bundle's tensors, as they are stored.
    """

    name: str
    factors: AdapterFactors
    artifact: Path


@dataclass(frozen=True)
class Proof:
    """What was measured of a bundle, and what it must answer on a device; None where it was not asked.

    `answer` is what it answered to that, in whole.
    """

    certificate: Certificate
    probe: Probe | None
    answer: ClearAnswer | None = None


def certify(
    checkpoint: Checkpoint,
    bundle: Path,
    manifest: Manifest,
    *,
    level: EvaluationLevel,
    domain: Domain,
    gate: QualityGate,
    step: Step,
    question: Question | None = None,
    scratch: Path | None = None,
    adapter: SwitchedOn | None = None,
) -> Proof:
    """Measure the bundle in the folder `bundle` against the checkpoint that it was made from.

    With an `adapter` that is switched on, and the checkpoint is the one that it was merged into.

    The engine also answers `question`, whose beginning becomes the bundle's probe. `gate` is written into the
    certificate; `check_gate` holds it against that. Level "full" measures plain rounding as well.

    Memory is a block of weights, the activations of the text and a block of logits; the engine runs in a
    process of its own, and its logits (`logits_bytes` of them) wait in a temporary file in the folder
    `scratch`, or in the system's own one. Raises EdgephiError when the engine cannot run the bundle here,
    and QualityGateError when its logits are not finite.
    """
    passages = evaluation_passages(
        encoder(checkpoint.tokenizer.folder),
        conversation_renderer(manifest.chat),
        level,
        context=manifest.limits.context,
        domain=domain,
    )
    text = counted_text([passage.ids for passage in passages])
    versions = _versions(checkpoint, bundle, manifest, level, adapter)
    with tempfile.TemporaryDirectory(prefix="edgephi-verify-", dir=scratch) as folder:
        engine_logits = Path(folder) / "logits"
        logits_size = len(text.rows) * checkpoint.architecture.vocabulary_size * LOGIT_BYTES
        with step("verify: engine", logits_size) as done:
            asked = [AskedPassage(passage.ids, first_counted(len(passage.ids))) for passage in passages]
            computed = run_engine(bundle, asked, question, engine_logits, done, adapter=adapter)
        images = None
        if manifest.model.images is not None and adapter is None:
            from edgephi.build.seeing.proof import certify_images  # it brings Pillow, which no text needs

            images = certify_images(
                checkpoint, bundle, manifest, level=level, domain=domain, step=step, scratch=scratch
            )
        measured = divergences([passage.ids for passage in passages], text, versions, engine_logits, step)
    end_to_end, passage = measured[ORIGINAL, ENGINE], text.passage
    loss, rounding = measured.get((ORIGINAL, QUANTISED)), measured.get((ORIGINAL, ROUNDED))
    certificate = Certificate(
        level=level,
        text=f"{EVALUATION_TEXT} ({domain})",
        tokens=len(text.rows),
        passages=len(passages),
        reference=REFERENCE,
        engine=computed.engine,
        provider=computed.provider,
        note=_note(manifest, computed, passages, text),
        export_error=summary(measured[QUANTISED, ENGINE], passage) if loss else None,
        quantisation_loss=summary(loss, passage) if loss else None,
        end_to_end=summary(end_to_end, passage),
        domains=_parts(end_to_end, text, [passage.domain for passage in passages]),
        languages=_parts(end_to_end, text, [passage.language for passage in passages]),
        plain_rounding=gain_over(rounding, loss, passage) if rounding and loss else None,
        gate=gate,
        images=images,
    )
    return Proof(certificate, probe_of(question, computed.answer), computed.answer)


def verify_against(
    bundle: Path,
    manifest: Manifest,
    located: Located,
    recipe: Recipe,
    *,
    level: EvaluationLevel,
    step: Step,
    adapters: Sequence[StrengthenedAdapter] = (),
) -> Certificate:
    """Measure a finished bundle again, against the checkpoint that was `located` with `adapters`.

    Raises BadCheckpointError when these are not what it was made from, as far as sizes, and names,
    revisions and strengths of adapters, tell, and QualityGateError when it is past the gate.
    """
    expected_adapters = [text_for(each.id, each.revision, each.scale) for each in manifest.model.adapters]
    found_adapters = [visible(asked_for(each)) for each in adapters]
    if expected_adapters != found_adapters:
        raise BadCheckpointError(
            f"{bundle}: expected the adapters that the bundle was made with, "
            f"{', '.join(expected_adapters) or 'none'}, found {', '.join(found_adapters) or 'none'}",
            hint="give each of them with --adapter, in this order",
        )
    # Conversations are written as the bundle writes them, so that no other template is asked for one.
    checkpoint = open_with_adapters(located, adapters, ChatSettings(template=manifest.chat.template))
    expected, found = manifest.model.parameters, checkpoint.architecture.parameters
    if expected != found:
        raise BadCheckpointError(
            f"{located.id}: expected the {expected:,} parameters that the bundle's model has, "
            f"found {found:,}",
            hint=f"the bundle was made from {manifest.model.id} at {manifest.model.revision}",
        )
    proof = certify(
        checkpoint, bundle, manifest, level=level, domain=recipe.evaluation, gate=recipe.gate, step=step
    )
    check_gate(proof.certificate, recipe.gate, deviates=bool(manifest.deviation))
    return proof.certificate


def _versions(
    checkpoint: Checkpoint,
    bundle: Path,
    manifest: Manifest,
    level: EvaluationLevel,
    adapter: SwitchedOn | None,
) -> dict[str, Weights]:
    """The weights to compare: the original ones and, where the codes are ours, what became of them."""
    versions: dict[str, Weights] = {ORIGINAL: CheckpointWeights(checkpoint)}
    if manifest.provenance.exporter == OWN_EXPORTER:
        stored = exporter(manifest.target.engine).artifact_weights(
            bundle / ARTIFACT_FOLDER, checkpoint.architecture
        )
        versions[QUANTISED] = stored if adapter is None else AdaptedWeights(stored, adapter.factors)
        if adapter is not None:
            return versions
        rounded = plainly_rounded(versions[ORIGINAL], manifest) if level == "full" else None
        if rounded is not None:
            versions[ROUNDED] = rounded
    return versions


def _parts(found: TokenDivergences, text: CountedText, kinds: Sequence[str]) -> dict[str, TextPart]:
    """The divergence for each kind of passage; `kinds` are those of the passages, in their order."""
    of_token = np.array(kinds)[text.passage]  # [tokens]
    return {kind: text_part(found, of_token == kind) for kind in sorted(set(kinds))}


def _note(manifest: Manifest, computed: Computed, passages: Sequence[TokenPassage], text: CountedText) -> str:
    """What a reader must know: where it was measured, and what that much text cannot show."""
    notes = [] if computed.provider == manifest.target.provider else [NOT_ON_PROVIDER]
    if manifest.deviation:
        notes.append(f"the export error is no rounding: {manifest.deviation}")
    if len(text.rows) < GATE_TOKENS or len(passages) < GATE_PASSAGES:
        longest = max(len(passage.ids) for passage in passages)
        notes.append(
            f"a judgement on quality takes {GATE_TOKENS} tokens of {GATE_PASSAGES} passages: this saw no "
            f"text longer than {longest} tokens"
        )
    return "; ".join(notes)


def probe_of(question: Question | None, answer: ClearAnswer | None) -> Probe | None:
    """What a device must hear: the clear beginning of the answer. None where there is no answer."""
    if question is None or answer is None:
        return None
    return Probe(question.prompt, expected=answer.text, max_tokens=answer.max_tokens)


def logits_bytes(vocabulary_size: int, level: EvaluationLevel) -> int:
    """The most bytes that `certify` puts into its temporary file."""
    return PASSAGES[level] * PASSAGE_TOKENS[level] * vocabulary_size * LOGIT_BYTES


def run_engine(
    bundle: Path,
    passages: Sequence[AskedPassage],
    question: Question | None,
    output: Path,
    done: Callable[[int], None],
    *,
    adapter: SwitchedOn | None = None,
) -> Computed:
    """Have the engine write its logits for the passages to `output`, and answer the question.

    `done` is told the bytes that have been written since it was last told. Raises what the engine's process
    ends with.
    """
    asked = None if question is None else UserQuestion(question.prompt, question.max_tokens)
    return ask(
        LogitsQuestion(
            str(bundle),
            str(output),
            tuple(passages),
            asked,
            adapter="" if adapter is None else adapter.name,
            beside="" if adapter is None else str(adapter.artifact),
        ),
        Computed,
        who="the engine's process, which computes logits,",
        hint="free some memory, or build with --verify off and verify on a larger machine",
        done=done,
    )
