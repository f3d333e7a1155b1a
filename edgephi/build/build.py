"""`edgephi build`: plan, export in one pass, verify, seal. A build that fails leaves nothing behind."""

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgephi.build.calibrating.calibrate import calibrate, calibration_passages, kept_bytes
from edgephi.build.calibrating.progress_on_disk import kept_beside
from edgephi.build.gate import check_answer, check_gate
from edgephi.build.manifest import manifest_of, time_of_build
from edgephi.build.matrix_names import names_of, tensors_named
from edgephi.build.mixed_precision import decided
from edgephi.build.plan import Plan, make_plan
from edgephi.build.request import BuildRequest
from edgephi.build.seeing.image_encoder import seeing_extras, written_image_encoder
from edgephi.build.seeing.picture_probe import check_picture, with_picture_probe, write_picture
from edgephi.build.shapes import architecture_of, shape_of
from edgephi.build.switched_adapters.folded_scales import write_folded_scales
from edgephi.build.verify import certify, logits_bytes
from edgephi.build.weighing import Weighed, weighed
from edgephi.build.wheels.wheelhouses import collect_wheels
from edgephi.bundle.manifest import (
    ARTIFACT_FOLDER,
    Manifest,
)
from edgephi.bundle.probe import Probe
from edgephi.bundle.quantisation import QUANTISATION_NAME, Quantisation, encode_quantisation
from edgephi.bundle.unfinished import check_disk_space, seal, unfinished_bundle, write_manifest
from edgephi.chat.template import ChatTemplate
from edgephi.checkpoint.adapter.merged import StrengthenedAdapter
from edgephi.checkpoint.adapter.opened import open_with_adapters
from edgephi.checkpoint.adapter.own_tokenizer import read_own_tokenizer
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.checkpoint.config import load_architecture
from edgephi.checkpoint.first_layers import first_layers
from edgephi.checkpoint.hub.pull import Check
from edgephi.checkpoint.locate import locate
from edgephi.checkpoint.located import Located
from edgephi.checkpoint.tokenizer import TokenizerFacts, encode
from edgephi.declared.recipe import DEFAULT, Recipe, Shape, recipe_for
from edgephi.declared.target import Target
from edgephi.engines.facts.registry import facts_of
from edgephi.errors import BadCheckpointError, DoesNotFitError, UsageError
from edgephi.export.exporter import Exporter, exporter
from edgephi.export.quantisation import quantisation_of
from edgephi.export.stream.one_pass import StreamReport
from edgephi.export.upstream import UpstreamExporter, upstream
from edgephi.reference.evaluation_text import EvaluationLevel
from edgephi.steps import Step

_SHORT_QUESTION = "Who are you?"


@dataclass(frozen=True)
class Built:
    """A finished bundle: its folder, its manifest, and what quantising did to every tensor.

    None of the last when an engine's own converter wrote the artifact. `remarks` say what is to be known of
    the checkpoint, `tokenizer_remarks` of its tokenizer and `chat_remarks` of its chat template. `answer` is
    how it answered the probe.
    """

    folder: Path
    manifest: Manifest
    plan: Plan
    quantisation: Quantisation | None
    remarks: tuple[str, ...] = ()
    tokenizer_remarks: tuple[str, ...] = ()
    chat_remarks: tuple[str, ...] = ()
    answer: str = ""


def find_checkpoint(
    model: str,
    recipe: Recipe,
    revision: str | None,
    *,
    progress: bool,
    check: Check = lambda _: None,
) -> Located:
    """Locate `model`: the name of a recipe stands for the recipe's hub id and revision.

    What `check` raises for the model's architecture is raised before any download: by the shape that a recipe
    declares, or else by the config alone.
    """
    declared = _declared_shape(model, recipe)
    if declared is not None:
        check(architecture_of(declared))
    named = _recipe_named(model, recipe)
    if named is None:
        return locate(model, revision=revision, progress=progress, check=check)
    is_hub_id = "/" in named.model.id
    return locate(
        named.model.id,
        revision=(revision or named.model.revision) if is_hub_id else revision,
        progress=progress,
        check=check,
    )


def find_architecture(
    model: str,
    recipe: Recipe,
    revision: str | None = None,
    adapters: Sequence[StrengthenedAdapter] = (),
) -> Architecture:
    """The architecture of `model`. A recipe that declares its shape needs no checkpoint and no network.

    With `adapters` the checkpoint is opened, and they are held against it.
    """
    declared = _declared_shape(model, recipe)
    if declared is not None and not adapters:
        return architecture_of(declared)
    located = find_checkpoint(model, recipe, revision, progress=True)
    if not adapters:
        return load_architecture(located.folder)
    return open_with_adapters(located, adapters, recipe.chat).architecture


def _declared_shape(model: str, recipe: Recipe) -> Shape | None:
    """The shape that a recipe declares for `model`."""
    for known in (recipe, recipe_for(model)):
        names = (known.name.lower(), known.model.id.lower())
        if model.lower() in names and known.model.shape is not None:
            return known.model.shape
    return None


def find_tokenizer(
    model: str,
    recipe: Recipe,
    revision: str | None = None,
    adapters: Sequence[StrengthenedAdapter] = (),
) -> TokenizerFacts | None:
    """The tokenizer of `model` with `adapters`; None for one that is planned without its checkpoint."""
    if _declared_shape(model, recipe) is not None and not adapters:
        return None
    folder = find_checkpoint(model, recipe, revision, progress=True).folder
    return read_own_tokenizer(folder, adapters, load_architecture(folder), recipe.chat)


def plan_model(
    model: str,
    recipe: Recipe,
    target: Target,
    *,
    revision: str | None = None,
    context: int | None = None,
    adapters: Sequence[StrengthenedAdapter] = (),
    accept_wrong_routing: bool = False,
) -> Plan:
    """Plan a build; see `find_architecture` for what that takes."""
    architecture = find_architecture(model, recipe, revision, adapters)
    return make_plan(
        model, architecture, recipe, target, context=context, accept_wrong_routing=accept_wrong_routing
    )


def build(request: BuildRequest, located: Located, step: Step) -> Built:
    """Build the bundle that was asked for from a checkpoint on this disk.

    Raises what the steps raise; then, and when it is interrupted, there is no bundle and no remainder of one.
    """
    created = time_of_build()
    if request.upstream:
        upstream(request.target.engine)  # whether it is there at all
        _check_no_adapters(request)
    with step("open and plan", 0):
        checkpoint = open_with_adapters(located, request.adapters, request.recipe.chat)
        recipe = request.recipe
        _check_shape(checkpoint, recipe)
        if request.layers is not None:
            whole = checkpoint.architecture
            checkpoint = first_layers(checkpoint, request.layers)
            recipe = _for_first_layers(recipe, whole, checkpoint.architecture)
        plan = make_plan(
            request.model,
            checkpoint.architecture,
            recipe,
            request.target,
            context=request.context,
            accept_wrong_routing=request.accept_wrong_routing,
        )
    _check_what_is_read(checkpoint, plan, recipe)
    needs_bytes = plan.artifact_bytes * facts_of(request.target.engine).file_copies
    if request.verify != "off":
        needs_bytes += logits_bytes(checkpoint.architecture.vocabulary_size, request.verify)
    passages = () if request.upstream else calibration_passages(plan.tensors, checkpoint, request.calibrate)
    calibrating_bytes = kept_bytes(checkpoint.architecture, plan.tensors) if passages else 0
    with (
        unfinished_bundle(request.output, needs_bytes=needs_bytes + calibrating_bytes) as folder,
        kept_beside(request.output, wanted=bool(passages)) as kept,
    ):
        wheelhouses = collect_wheels(request.wheels, folder, step, also=seeing_extras(request, plan))
        check_disk_space(request.output, needs_bytes + calibrating_bytes)
        knowing = Weighed(plan, None)
        if not request.upstream:
            knowing = weighed(plan, checkpoint, request.calibrate, step)
            plan = decided(knowing.plan, checkpoint, request.calibrate, step)
        if passages:  # codes of 5 and 6 bits, which some may have now, take more there
            calibrating_bytes = kept_bytes(checkpoint.architecture, plan.tensors)
            check_disk_space(request.output, needs_bytes + calibrating_bytes)
        tensors = calibrate(checkpoint, plan.tensors, passages, kept, step)
        plan, calibration = dataclasses.replace(plan, tensors=tensors), knowing.calibration
        if calibration is not None and passages:
            calibration = dataclasses.replace(calibration, tokens=sum(map(len, passages)))
        report = _exporter(request, plan).write_artifact(
            folder / ARTIFACT_FOLDER, checkpoint, plan.tensors, request.target, plan.context, step=step
        )
        _check_hashes(report, located, request.adapters)
        reports = [report, *written_image_encoder(request, plan, checkpoint, folder, step)]
        write_folded_scales(folder, plan.tensors)
        picture = write_picture(folder, checkpoint.architecture, recipe)
        quantisation = _quantisation_written(folder, reports, plan)
        manifest = manifest_of(
            request,
            plan,
            checkpoint,
            folder,
            reports,
            created=created,
            calibration=calibration,
            wheels=wheelhouses,
        )
        write_manifest(folder, manifest)
        answer = ""
        if request.verify != "off":
            manifest, answer = _proven(request, checkpoint, folder, manifest, level=request.verify, step=step)
            with step("look at a picture", 0) if picture else contextlib.nullcontext():
                manifest = with_picture_probe(folder, manifest, recipe, picture)
            write_manifest(folder, manifest)
        with step("seal", 0):
            seal(folder, request.output)
    return Built(
        request.output,
        manifest,
        plan,
        quantisation,
        checkpoint.remarks,
        checkpoint.tokenizer.places.remarks,
        checkpoint.tokenizer.chat.remarks,
        answer,
    )


def _quantisation_written(folder: Path, reports: Sequence[StreamReport], plan: Plan) -> Quantisation | None:
    """The record of what quantising did, which is written into the bundle where there is one."""
    errors = [error for each in reports for error in each.errors]
    quantisation = quantisation_of(errors, [*plan.tensors, *plan.image_tensors])
    if quantisation is not None:
        (folder / QUANTISATION_NAME).write_bytes(encode_quantisation(quantisation))
    return quantisation


def _check_what_is_read(checkpoint: Checkpoint, plan: Plan, recipe: Recipe) -> None:
    """Raise DoesNotFitError or BadInputError for what a model is to read and cannot."""
    _check_system_fits(checkpoint, plan)
    check_picture(checkpoint.architecture, recipe)


def _check_system_fits(checkpoint: Checkpoint, plan: Plan) -> None:
    """Raise DoesNotFitError for a system message that leaves no room for a question and its answer."""
    chat = checkpoint.tokenizer.chat
    if not chat.system:
        return
    asked = [{"role": "system", "content": chat.system}, {"role": "user", "content": _SHORT_QUESTION}]
    prompt = ChatTemplate(chat.template, chat.variables).render(asked)
    tokens = len(encode(checkpoint.tokenizer.folder, prompt))
    if tokens >= plan.context:
        raise DoesNotFitError(
            f"chat: system: the message and a short question take {tokens:,} tokens, the context is "
            f"{plan.context:,}, prompt and answer together",
            hint="shorten the message, or build for a larger --context",
        )


def _proven(
    request: BuildRequest,
    checkpoint: Checkpoint,
    folder: Path,
    manifest: Manifest,
    *,
    level: EvaluationLevel,
    step: Step,
) -> tuple[Manifest, str]:
    """The manifest with what was measured and what must be answered, and the answer itself.

    Raises QualityGateError when a number is past the recipe's gate, or the answer is none.
    """
    recipe = request.recipe
    proof = certify(
        checkpoint,
        folder,
        manifest,
        level=level,
        domain=recipe.evaluation,
        gate=recipe.gate,
        step=step,
        question=recipe.probe if recipe.probe.prompt else None,
        scratch=folder,  # a killed build leaves nothing anywhere else
    )
    check_gate(proof.certificate, recipe.gate, deviates=bool(manifest.deviation))
    said = proof.answer
    if said is not None and recipe.gate.answers:
        check_answer(
            recipe.probe.prompt,
            said.whole,
            said.token_ids,
            most=said.max_tokens,
            control_ids=checkpoint.tokenizer.control_ids,
        )
    probe = _at_speed(proof.probe, request.target)
    answer = "" if said is None else said.whole
    return dataclasses.replace(manifest, certificate=proof.certificate, probe=probe), answer


def _check_no_adapters(request: BuildRequest) -> None:
    if request.adapters:
        raise UsageError(
            "--adapter: expected edgephi's own exporter, found --exporter upstream, which reads files only",
            hint="leave --exporter out",
        )


def _check_hashes(report: StreamReport, located: Located, adapters: Sequence[StrengthenedAdapter]) -> None:
    """Raise BadCheckpointError when a file that was read is not what the hub says of it."""
    expected = dict(located.expected_sha256)
    for adapter in adapters:
        for name, sha256 in adapter.located.expected_sha256.items():
            expected[f"{adapter.located.id}/{name}"] = sha256
    for name, sha256 in expected.items():
        if report.input_sha256.get(name, sha256) != sha256:
            raise BadCheckpointError(
                f"{name}: expected sha256 {sha256} by the hub, found {report.input_sha256[name]}",
                hint="the file in the cache is damaged: delete it there and build again",
            )


def _for_first_layers(recipe: Recipe, whole: Architecture, part: Architecture) -> Recipe:
    """The recipe without what it says of matrices that a model's first layers do not have."""
    named = tensors_named(recipe.quant.keep.tensors, whole) & part.tensor_shapes().keys()
    keep = dataclasses.replace(recipe.quant.keep, tensors=names_of(named, part))
    # A budget is for the whole model.
    quant = dataclasses.replace(recipe.quant, keep=keep, bits_per_weight=None)
    return dataclasses.replace(recipe, quant=quant)


def _at_speed(probe: Probe | None, target: Target) -> Probe | None:
    """The probe with the speed that the target's device must reach."""
    speed = target.limits.minimum_tokens_per_second
    return None if probe is None else dataclasses.replace(probe, minimum_tokens_per_second=speed)


def _exporter(request: BuildRequest, plan: Plan) -> Exporter:
    """What writes the artifact: our exporter, or the engine's own converter in its place."""
    own = exporter(request.target.engine)
    if not request.upstream:
        return own
    if plan.image_tensors:
        raise UsageError(
            "--exporter: expected edgephi's own for a model that sees, found upstream",
            hint="leave --exporter out",
        )
    return UpstreamExporter(upstream(request.target.engine), own, plan.recipe.quant, request.available_memory)


def _recipe_named(model: str, recipe: Recipe) -> Recipe | None:
    """The recipe whose name `model` is: `recipe`, which may be the user's own, or a shipped one."""
    for known in (recipe, recipe_for(model)):
        if model.lower() == known.name.lower() and known.model.id:
            return known
    return None


def _check_shape(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Refuse a checkpoint that is not of the shape that its recipe declares."""
    if recipe.model.shape is None:
        return
    declared, found = (
        dataclasses.asdict(recipe.model.shape),
        dataclasses.asdict(shape_of(checkpoint.architecture)),
    )
    for key, value in declared.items():
        if found[key] != value:
            raise BadCheckpointError(
                f"{checkpoint.id}: recipe {recipe.name} expects {key} {value}, found {found[key]}",
                hint=f"use `--recipe {DEFAULT}` for a checkpoint that was changed",
            )
