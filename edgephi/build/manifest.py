"""What a build writes into the manifest: everything but wheels, certificate and probe, which come later."""

import dataclasses
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import edgephi
from edgephi.build.plan import Plan
from edgephi.build.request import BuildRequest
from edgephi.bundle.certificate import Certificate
from edgephi.bundle.chunks import FileEntry
from edgephi.bundle.image_tokens import ImageFacts
from edgephi.bundle.manifest import (
    ARTIFACT_FOLDER,
    OWN_EXPORTER,
    SCHEMA,
    AdapterFacts,
    CalibrationFacts,
    ChatFacts,
    Limits,
    Manifest,
    ModelFacts,
    Provenance,
    QuantFacts,
    Requires,
    TargetFacts,
    Wheelhouse,
)
from edgephi.bundle.unfinished import file_sha256, list_files
from edgephi.checkpoint.adapter.locate_adapter import asked_for
from edgephi.checkpoint.adapter.peft_config import CONFIG_FILE as ADAPTER_CONFIG
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.checkpoint.images.preprocessor import PREPROCESSOR_FILE
from edgephi.checkpoint.locate import name_of
from edgephi.checkpoint.tokenizer import TokenizerFacts
from edgephi.commands import shell_command
from edgephi.declared.recipe import DEFAULT
from edgephi.errors import UsageError
from edgephi.export.stream.one_pass import StreamReport
from edgephi.export.upstream import upstream
from edgephi.guards.visible import visible


def manifest_of(
    request: BuildRequest,
    plan: Plan,
    checkpoint: Checkpoint,
    folder: Path,
    reports: Sequence[StreamReport],
    *,
    created: str,
    calibration: CalibrationFacts | None = None,
    wheels: tuple[Wheelhouse, ...] = (),
) -> Manifest:
    """The manifest of the files in `folder`, without a certificate yet.

    Names of the user's files and recipe stand there as they are shown: no reader takes a manifest that holds
    what steers a terminal.
    """
    target, quant = request.target, plan.recipe.quant
    small_files = [
        *(checkpoint.folder / name for name in ("config.json", "generation_config.json", PREPROCESSOR_FILE)),
        *checkpoint.tokenizer.read,
        *(adapter.located.folder / ADAPTER_CONFIG for adapter in request.adapters),
    ]
    owners = {adapter.located.folder: f"{adapter.located.id}/" for adapter in request.adapters}
    small_inputs = {
        f"{owners.get(file.parent, '')}{file.name}": file_sha256(file)
        for file in small_files
        if file.is_file()
    }
    files = list_files(folder, [entry for report in reports for entry in _known_files(report)])
    shards = {name: sha256 for report in reports for name, sha256 in report.input_sha256.items()}
    facts = QuantFacts(
        bits=quant.bits,
        group_size=quant.group_size,
        symmetric=quant.symmetric,
        method=quant.method,
        embedding_bits=quant.embedding_bits,
        head_bits=quant.head_bits,
        formats=quant.formats,
        mixture=quant.mixture,
        bits_per_weight=plan.bits_per_weight,
        kept=plan.kept,
        calibration=calibration,
    )
    exporter_name = OWN_EXPORTER
    if request.upstream:
        tool = upstream(target.engine)
        artifact_bytes = sum(entry.size for entry in files if entry.path.startswith(f"{ARTIFACT_FOLDER}/"))
        exporter_name = f"{tool.name} {tool.version}"
        facts = dataclasses.replace(
            facts,
            method="upstream",
            symmetric=quant.symmetric if tool.always_symmetric is None else tool.always_symmetric,
            embedding_bits=tool.embedding_bits or quant.bits,
            head_bits=tool.head_bits or quant.bits,
            bits_per_weight=round(8 * artifact_bytes / checkpoint.architecture.parameters, 3),
        )
    return Manifest(
        schema=SCHEMA,
        name=visible(request.name or f"{_short_name(request)}-{target.name}"),
        sequence=request.sequence,
        created=created,
        model=ModelFacts(
            id=visible(checkpoint.id),
            revision=checkpoint.revision,
            variant=visible(_short_name(request)),
            parameters=checkpoint.architecture.parameters,
            active_parameters=_active_parameters(checkpoint.architecture),
            context=checkpoint.architecture.context,
            images=_images(checkpoint.architecture),
            adapters=tuple(
                AdapterFacts(visible(each.located.id), each.located.revision, each.scale)
                for each in request.adapters
            ),
        ),
        target=TargetFacts(target.name, target.engine, target.provider, target.arch),
        quant=facts,
        chat=chat_facts(checkpoint.tokenizer),
        limits=_limits(plan),
        requires=Requires(
            memory_bytes=plan.memory.total,
            disk_bytes=sum(entry.size for entry in files),
            engines=dict(target.engines),
            memory_per_token_bytes=plan.memory.per_token,
            cached_tokens=plan.memory.cached_tokens if plan.memory.cached_tokens < plan.context else None,
            idle_bytes=plan.idle_bytes,
        ),
        files=files,
        certificate=Certificate(level="off"),
        provenance=Provenance(
            edgephi=edgephi.__version__,
            command=_command(request, checkpoint),
            inputs=dict(sorted({**small_inputs, **shards}.items())),
            exporter=exporter_name,
        ),
        security_floor=request.security_floor,
        deviation=plan.deviation,
        wheels=wheels,
    )


def chat_facts(tokenizer: TokenizerFacts) -> ChatFacts:
    """What a manifest says of the conversations of a checkpoint with this tokenizer."""
    chat = tokenizer.chat
    return ChatFacts(chat.template, tokenizer.stop_token_ids, chat.source, dict(chat.variables), chat.system)


def _known_files(report: StreamReport) -> list[FileEntry]:
    """The file that the stream has hashed while it wrote it, if it has."""
    if not report.data_file:
        return []
    path = f"{ARTIFACT_FOLDER}/{report.data_file}"
    return [FileEntry(path, report.data_size, report.data_sha256, report.data_chunks)]


def _limits(plan: Plan) -> Limits:
    rotary = plan.architecture.attention.rotary
    switches = rotary.uses_long_factors(plan.context)
    return Limits(plan.context, whole_prefill_above=rotary.original_context if switches else None)


def _short_name(request: BuildRequest) -> str:
    """The recipe's name, or that of the model's folder or hub id."""
    if request.recipe.name != DEFAULT:
        return request.recipe.name
    return Path(request.model).resolve().name if Path(request.model).is_dir() else Path(request.model).name


def _command(request: BuildRequest, checkpoint: Checkpoint) -> str:
    """The command that makes this bundle again; without folders, so that it never differs."""
    model = name_of(checkpoint.id)
    words = ["edgephi", "build", model, "--target", request.target.name]
    if request.target.soc:
        words += ["--soc", request.target.soc]
    if "/" in model:  # of the hub
        words += ["--revision", checkpoint.revision]
    for adapter in request.adapters:
        words += ["--adapter", asked_for(adapter)]
    words += [] if request.system is None else ["--system", request.system]
    words += ["--recipe", request.recipe.name]
    if request.quality != "default":
        words += ["--quality", request.quality]
    words += ["--method", request.recipe.quant.method]
    words += [] if request.group_size is None else ["--group-size", str(request.group_size)]
    words += [] if request.name is None else ["--name", request.name]
    if request.recipe.quant.formats == "portable":
        words += ["--portable"]
    if request.calibrate is not None:
        words += ["--calibrate", request.calibrate.resolve().name]
    words += ["--verify", request.verify]
    if request.context is not None:
        words += ["--context", str(request.context)]
    words += ["--accept-wrong-routing"] if request.accept_wrong_routing else []
    if request.upstream:
        words += ["--exporter", "upstream"]
    if request.wheels is not None:
        for platform in request.wheels.platforms:
            words += ["--wheels", platform.name]
        words += ["--wheels-for", request.wheels.purpose]
    if request.sequence != 1:
        words += ["--sequence", str(request.sequence)]
    if request.security_floor:
        words += ["--security-floor", str(request.security_floor)]
    return shell_command(*words)


def time_of_build() -> str:
    """The time of the build in UTC, or what SOURCE_DATE_EPOCH says for a reproducible one."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"SOURCE_DATE_EPOCH: expected seconds since 1970, found {epoch!r}",
            hint=f"unset it, or `{shell_command('date', '+%s')}`",
        ) from None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _images(architecture: Architecture) -> ImageFacts | None:
    """How a device prepares images for the model, None where it does not see."""
    encoder = architecture.image_encoder
    return None if encoder is None else encoder.facts


def _active_parameters(architecture: Architecture) -> int | None:
    """The weights that one token is computed with, None where these are all."""
    active = architecture.active_parameters
    return None if active == architecture.parameters else active
