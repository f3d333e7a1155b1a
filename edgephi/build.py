"""`edgephi build`: plan, export in one pass, verify, seal. A build that fails leaves nothing behind."""

import dataclasses
import os
import shlex
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import edgephi
from edgephi.bundle import file_sha256, list_files, seal, unfinished_bundle, write_manifest
from edgephi.checkpoint.architecture import load_architecture
from edgephi.checkpoint.checkpoint import Checkpoint, open_checkpoint
from edgephi.checkpoint.hub import Located, locate
from edgephi.errors import BadCheckpointError
from edgephi.export.engines import exporter
from edgephi.export.stream import StreamReport, TensorError
from edgephi.manifest import (
    ARTIFACT_FOLDER,
    SCHEMA,
    Certificate,
    Chat,
    Limits,
    Manifest,
    ModelFacts,
    Provenance,
    QuantFacts,
    Requires,
    TargetFacts,
    VerifyLevel,
)
from edgephi.plan import Plan, architecture_of, make_plan, shape_of
from edgephi.recipe import DEFAULT, Recipe
from edgephi.reference.evaluation_text import EvaluationLevel
from edgephi.target import Target
from edgephi.verify import certify, check_gate

Step = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Opens a step of the build: its title and its size in steps of work; yields what counts them."""


@dataclass(frozen=True)
class BuildRequest:
    """What the user asked for. `context` and `sequence` are optional; see the manifest for `sequence`."""

    model: str
    target: Target
    recipe: Recipe
    output: Path
    revision: str | None = None
    verify: VerifyLevel = "quick"
    context: int | None = None
    sequence: int = 1


@dataclass(frozen=True)
class Built:
    """A finished bundle: its folder, its manifest, and the quantisation error of every tensor."""

    folder: Path
    manifest: Manifest
    plan: Plan
    tensor_errors: tuple[TensorError, ...]


def find_checkpoint(model: str, recipe: Recipe, revision: str | None, *, progress: bool) -> Located:
    """Locate `model`: the name of a recipe stands for the recipe's hub id and revision."""
    if model == recipe.name and recipe.model.id:
        is_hub_id = "/" in recipe.model.id
        return locate(
            recipe.model.id,
            revision=(revision or recipe.model.revision) if is_hub_id else revision,
            progress=progress,
        )
    return locate(model, revision=revision, progress=progress)


def plan_model(
    model: str, recipe: Recipe, target: Target, *, revision: str | None = None, context: int | None = None
) -> Plan:
    """Plan a build. A recipe that declares its model's shape needs no checkpoint and no network."""
    if model in (recipe.name, recipe.model.id) and recipe.model.shape is not None:
        return make_plan(model, architecture_of(recipe.model.shape), recipe, target, context=context)
    located = find_checkpoint(model, recipe, revision, progress=True)
    return make_plan(model, load_architecture(located.folder), recipe, target, context=context)


def build(request: BuildRequest, located: Located, step: Step) -> Built:
    """Build the bundle that was asked for from a checkpoint on this disk.

    Raises what the steps raise; then, and when it is interrupted, there is no bundle and no remainder of one.
    """
    checkpoint = open_checkpoint(located.folder, id=located.id, revision=located.revision)
    _check_shape(checkpoint, request.recipe)
    plan = make_plan(
        request.model, checkpoint.architecture, request.recipe, request.target, context=request.context
    )
    with unfinished_bundle(request.output, needs_bytes=plan.artifact_bytes) as folder:
        artifact = folder / ARTIFACT_FOLDER
        size = sum(shard.size for shard in checkpoint.shards)
        with step("quantise and export", size) as done:
            report = exporter(request.target.engine).write_artifact(
                artifact, checkpoint, plan.schemes, request.target, plan.context, progress=done
            )
        for name, sha256 in located.expected_sha256.items():
            if report.input_sha256.get(name, sha256) != sha256:
                raise BadCheckpointError(
                    f"{name}: expected sha256 {sha256} by the hub, found {report.input_sha256[name]}",
                    hint="the file in the cache is damaged: delete it there and build again",
                )
        for name in checkpoint.tokenizer.files:
            shutil.copyfile(checkpoint.folder / name, artifact / name)
        manifest = _manifest(request, plan, checkpoint, folder, report)
        write_manifest(folder, manifest)
        if request.verify != "off":
            certificate = _certified(
                checkpoint, folder, manifest, request.recipe, level=request.verify, step=step
            )
            manifest = dataclasses.replace(manifest, certificate=certificate)
            write_manifest(folder, manifest)
        with step("seal", 0):
            seal(folder, request.output)
    return Built(request.output, manifest, plan, report.errors)


def verify_against(
    bundle: Path, manifest: Manifest, model: str, recipe: Recipe, *, level: EvaluationLevel, step: Step
) -> Certificate:
    """Measure a finished bundle again, against `model`. Raises QualityGateError when it is past the gate."""
    located = find_checkpoint(model, recipe, None, progress=True)
    checkpoint = open_checkpoint(located.folder, id=located.id, revision=located.revision)
    return _certified(checkpoint, bundle, manifest, recipe, level=level, step=step)


def _certified(
    checkpoint: Checkpoint,
    bundle: Path,
    manifest: Manifest,
    recipe: Recipe,
    *,
    level: EvaluationLevel,
    step: Step,
) -> Certificate:
    """Measure a bundle and hold the result against the recipe's gate."""
    with step("verify", 2 * checkpoint.architecture.layers) as done:
        certificate = certify(
            checkpoint,
            bundle,
            manifest,
            level=level,
            domain=recipe.evaluation,
            progress=lambda _finished, _total: done(1),
        )
    check_gate(certificate, recipe.gate)
    return certificate


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


def _manifest(
    request: BuildRequest, plan: Plan, checkpoint: Checkpoint, folder: Path, report: StreamReport
) -> Manifest:
    """The manifest of the files in `folder`, without a certificate yet."""
    target, quant = request.target, request.recipe.quant
    names = ["config.json", "generation_config.json", *checkpoint.tokenizer.files]
    small_inputs = {
        name: file_sha256(checkpoint.folder / name) for name in names if (checkpoint.folder / name).is_file()
    }
    files = list_files(folder, {f"{ARTIFACT_FOLDER}/{report.data_file}": report.data_sha256})
    return Manifest(
        schema=SCHEMA,
        name=f"{_short_name(request)}-{target.name}",
        sequence=request.sequence,
        created=_now(),
        model=ModelFacts(
            id=checkpoint.id,
            revision=checkpoint.revision,
            variant=_short_name(request),
            parameters=checkpoint.architecture.parameters,
            context=checkpoint.architecture.context,
        ),
        target=TargetFacts(target.name, target.engine, target.provider, target.arch),
        quant=QuantFacts(
            bits=quant.bits,
            group_size=quant.group_size,
            symmetric=quant.symmetric,
            method=quant.method,
            embedding_bits=quant.embedding_bits,
            head_bits=quant.head_bits,
            bits_per_weight=plan.bits_per_weight,
        ),
        chat=Chat(checkpoint.tokenizer.chat.template, checkpoint.tokenizer.stop_token_ids),
        limits=Limits(context=plan.context),
        requires=Requires(
            memory_bytes=plan.memory.total,
            disk_bytes=sum(entry.size for entry in files),
            engines=dict(target.engines),
        ),
        files=files,
        certificate=Certificate(level="off"),
        provenance=Provenance(
            edgephi=edgephi.__version__,
            command=_command(request, checkpoint),
            inputs=dict(sorted({**small_inputs, **report.input_sha256}.items())),
        ),
    )


def _short_name(request: BuildRequest) -> str:
    """The recipe's name, or that of the model's folder or hub id."""
    if request.recipe.name != DEFAULT:
        return request.recipe.name
    return Path(request.model).resolve().name if Path(request.model).is_dir() else Path(request.model).name


def _command(request: BuildRequest, checkpoint: Checkpoint) -> str:
    """The command that makes this bundle again; without the output folder, so that it never differs."""
    words = ["edgephi", "build", checkpoint.id, "--target", request.target.name]
    words += ["--recipe", request.recipe.name, "--verify", request.verify]
    if request.context is not None:
        words += ["--context", str(request.context)]
    if request.sequence != 1:
        words += ["--sequence", str(request.sequence)]
    return shlex.join(words)


def _now() -> str:
    """The time of the build in UTC, or what SOURCE_DATE_EPOCH says for a reproducible one."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
