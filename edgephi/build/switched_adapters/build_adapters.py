"""`edgephi adapter build`: read the adapters, write them as the engine has them, prove each, seal."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgephi.build.gate import check_answer, check_gate
from edgephi.build.manifest import time_of_build
from edgephi.build.switched_adapters.chat_form_of_base import check_chat_form
from edgephi.build.switched_adapters.folded_scales import read_folded_scales
from edgephi.build.switched_adapters.request import AdaptersRequest, NamedAdapter
from edgephi.build.verify import SwitchedOn, certify, logits_bytes
from edgephi.bundle.adapter_artifact import check_whole
from edgephi.bundle.certificate import Certificate, QualityGate
from edgephi.bundle.files import check_files
from edgephi.bundle.manifest import ARTIFACT_FOLDER, MANIFEST_NAME, Manifest, read_manifest
from edgephi.bundle.probe import Probe
from edgephi.bundle.switched_adapter import BaseBundle, SwitchedAdapter
from edgephi.bundle.unfinished import file_sha256, list_files, seal, unfinished_bundle, write_manifest
from edgephi.checkpoint.adapter.adapter_file import WEIGHTS_FILE
from edgephi.checkpoint.adapter.locate_adapter import asked_for
from edgephi.checkpoint.adapter.low_rank_factors import LowRankFactors, low_rank_factors
from edgephi.checkpoint.adapter.merged import merged, numbered
from edgephi.checkpoint.adapter.peft_config import CONFIG_FILE
from edgephi.checkpoint.checkpoint import Checkpoint, open_checkpoint
from edgephi.checkpoint.located import Located
from edgephi.checkpoint.roles import ModelTensor
from edgephi.commands import edgephi_command, shell_command
from edgephi.declared.recipe import Question, recipe_for
from edgephi.errors import BadCheckpointError, NotSupportedError
from edgephi.export.exporter import adapter_exporter
from edgephi.export.tensor_names import matrix_name
from edgephi.guards.visible import visible
from edgephi.quantize.folding import Floats, row_factors
from edgephi.steps import Step

_LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class BuiltAdapters:
    """A finished artifact: its folder and its manifest, and how each adapter answered, by its name."""

    folder: Path
    manifest: Manifest
    answers: dict[str, str]
    own_bytes: int


def build_adapters(request: AdaptersRequest, located: Located, step: Step) -> BuiltAdapters:
    """Build the artifact that was asked for; `located` is the checkpoint that the base was made from.

    Raises what the steps raise; then, and when it is interrupted, there is no artifact and no remainder of
    one.
    """
    base = read_manifest(request.base)
    check_whole(request.base, base)
    check_files(request.base, base, quick=True)
    exporter = adapter_exporter(base.target.engine)
    _check_plain(request.base, base)
    with step("open and plan", 0):
        checkpoint = open_checkpoint(located.folder, id=located.id, revision=located.revision)
        _check_same_model(request.base, base, checkpoint, located)
        needs_bytes = 0
        for named in request.adapters:  # one after the other: many of them may be as large as a model
            check_chat_form(base, checkpoint, named.adapter)
            factors = _folded(request, checkpoint, named)
            needs_bytes += 8 * sum(own.left.size + own.right.size for own in factors.values())
    if request.verify != "off":
        needs_bytes += logits_bytes(checkpoint.architecture.vocabulary_size, request.verify)
    with unfinished_bundle(request.output, needs_bytes=needs_bytes) as folder:
        switched = []
        for named in request.adapters:
            with step(f"write {named.name}", 0):
                file = exporter.write_adapter(
                    folder / ARTIFACT_FOLDER,
                    named.name,
                    _folded(request, checkpoint, named),
                    request.base / ARTIFACT_FOLDER,
                    base.target,
                )
            located_adapter = named.adapter.located
            switched.append(
                SwitchedAdapter(
                    named.name,
                    visible(located_adapter.id),
                    located_adapter.revision,
                    f"{ARTIFACT_FOLDER}/{file}",
                    named.adapter.scale,
                )
            )
        manifest = _manifest(request, base, folder, tuple(switched))
        write_manifest(folder, manifest)
        answers = {}
        if request.verify != "off":
            proven = []
            for named, adapter in zip(request.adapters, switched, strict=True):
                on = SwitchedOn(named.name, _folded(request, checkpoint, named), folder)
                adapted = merged(checkpoint, [named.adapter])
                certificate, probe, answers[named.name] = _proven(request, adapted, manifest, on, step)
                proven.append(dataclasses.replace(adapter, certificate=certificate, probe=probe))
            manifest = dataclasses.replace(manifest, adapters=tuple(proven))
            write_manifest(folder, manifest)
        own = set(manifest.base.files if manifest.base else ())
        own_bytes = sum(entry.size for entry in manifest.files if entry.path not in own)
        with step("seal", 0):
            seal(folder, request.output)
    return BuiltAdapters(request.output, manifest, answers, own_bytes)


def _check_plain(bundle: Path, base: Manifest) -> None:
    """Refuse a base that has adapters: merged ones change what another was trained on."""
    if base.adapters or base.model.adapters:
        kind = "adapters beside it" if base.adapters else "adapters merged into it"
        raise NotSupportedError(
            f"{bundle}: expected a bundle without adapters, found one with {kind}",
            hint="give the bundle of the plain checkpoint, and all adapters that are to be beside it",
        )


def _check_same_model(bundle: Path, base: Manifest, checkpoint: Checkpoint, located: Located) -> None:
    """Raise BadCheckpointError when the checkpoint is not the one that the bundle was made from.

    Every file that the bundle was made from is held against its hash; the hub says those of its files.
    """
    differing = []
    for name, sha256 in base.provenance.inputs.items():
        file = checkpoint.folder / name
        if file.is_file() and (located.expected_sha256.get(name) or file_sha256(file)) != sha256:
            differing.append(name)
    if differing or base.model.parameters != checkpoint.architecture.parameters:
        what = (
            f"another {differing[0]}" if differing else f"{checkpoint.architecture.parameters:,} parameters"
        )
        raise BadCheckpointError(
            f"{checkpoint.id}: expected the checkpoint that {bundle} was made from, {base.model.id} at "
            f"{base.model.revision}, found {what}",
            hint="give that one: "
            f"`{edgephi_command('adapter', 'build', bundle, 'ADAPTER', '--against', 'MODEL', '-o', 'DIR')}`",
        )


def _folded(
    request: AdaptersRequest, checkpoint: Checkpoint, named: NamedAdapter
) -> dict[ModelTensor, LowRankFactors]:
    """The matrices of an adapter for the tensors as the base stores them.

    Raises BadCheckpointError for numbers that float16 does not hold, of which engines have them.
    """
    columns = read_folded_scales(request.base, checkpoint.architecture)
    rows: dict[ModelTensor, Floats] = row_factors(columns, checkpoint.architecture)
    factors = {}
    for tensor, own in low_rank_factors(checkpoint, named.adapter).items():
        folded = factors[tensor] = own.scaled(rows.get(tensor), columns.get(tensor)).balanced()
        largest = max(float(np.abs(matrix).max()) for matrix in (folded.left, folded.right))
        if not largest <= _LARGEST_FLOAT16:
            raise BadCheckpointError(
                f"{visible(named.adapter.located.id)}: {matrix_name(tensor)}: expected numbers of at most "
                f"{_LARGEST_FLOAT16:,.0f} for the engine, found {largest:.3g}",
                hint="give it with a smaller factor: ADAPTER@FACTOR",
            )
    return factors


def _manifest(
    request: AdaptersRequest, base: Manifest, folder: Path, adapters: tuple[SwitchedAdapter, ...]
) -> Manifest:
    """The base's manifest with the adapters' files, and with what they take."""
    own = list_files(folder)
    own_bytes = sum(entry.size for entry in own)
    requires = dataclasses.replace(
        base.requires,
        memory_bytes=base.requires.memory_bytes + own_bytes,
        disk_bytes=base.requires.disk_bytes + own_bytes,
    )
    return dataclasses.replace(
        base,
        created=time_of_build(),
        sequence=base.sequence if request.sequence is None else request.sequence,
        files=tuple(sorted((*base.files, *own), key=lambda entry: entry.path)),
        requires=requires,
        provenance=dataclasses.replace(
            base.provenance,
            command=_command(request, base),
            inputs={**base.provenance.inputs, **_inputs(request)},
        ),
        adapters=adapters,
        base=BaseBundle(
            base.name,
            base.sequence,
            hashlib.sha256((request.base / MANIFEST_NAME).read_bytes()).hexdigest(),
            tuple(entry.path for entry in base.files),
        ),
    )


def _inputs(request: AdaptersRequest) -> dict[str, str]:
    """The sha256 of every file of the adapters, by the adapter's id and its name."""
    owners: dict[Path, str] = {}
    for named in request.adapters:
        located = named.adapter.located
        taken = owners.values()
        owner = next(name for name in numbered(visible(located.id)) if name not in taken)
        owners.setdefault(located.folder.resolve(), owner)
    return {
        f"{owner}/{name}": file_sha256(folder / name)
        for folder, owner in owners.items()
        for name in (CONFIG_FILE, WEIGHTS_FILE)
    }


def _command(request: AdaptersRequest, base: Manifest) -> str:
    """The command that makes this artifact again; without folders, so that it never differs."""
    adapters = [f"{each.name}={visible(asked_for(each.adapter))}" for each in request.adapters]
    words = ["edgephi", "adapter", "build", base.name, *adapters]
    words += ["--verify", request.verify]
    if request.sequence is not None:
        words += ["--sequence", str(request.sequence)]
    return shell_command(*words)


def _proven(
    request: AdaptersRequest,
    checkpoint: Checkpoint,
    manifest: Manifest,
    on: SwitchedOn,
    step: Step,
) -> tuple[Certificate, Probe | None, str]:
    """What was measured with an adapter, what must be answered with it, and the answer itself.

    `checkpoint` is the one that the adapter is merged into. Raises QualityGateError when a number is past
    the base's gate, or the answer is none.
    """
    assert request.verify != "off"  # noqa: S101 - for the type checker
    recipe = recipe_for(manifest.model.variant)
    gate = manifest.certificate.gate or QualityGate()
    asked = manifest.probe
    question = recipe.probe if asked is None else Question(asked.prompt, asked.max_tokens)
    proof = certify(
        checkpoint,
        request.base,
        manifest,
        level=request.verify,
        domain=recipe.evaluation,
        gate=gate,
        step=step,
        question=question if question.prompt else None,
        scratch=on.artifact,
        adapter=on,
    )
    check_gate(proof.certificate, gate, deviates=bool(manifest.deviation))
    said = proof.answer
    if said is not None and gate.answers:
        check_answer(
            question.prompt,
            said.whole,
            said.token_ids,
            most=said.max_tokens,
            control_ids=checkpoint.tokenizer.control_ids,
        )
    probe = proof.probe
    if probe is not None and asked is not None:
        probe = dataclasses.replace(probe, minimum_tokens_per_second=asked.minimum_tokens_per_second)
    return proof.certificate, probe, "" if said is None else said.whole
