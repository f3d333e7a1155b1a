"""`edgephi import qnn`: somebody's ready context binaries become a bundle, checked as our own are."""

import dataclasses
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import edgephi
from edgephi.build.manifest import chat_facts, time_of_build
from edgephi.build.qnn_import.binaries import describe
from edgephi.build.verify import probe_of, run_engine
from edgephi.bundle.artifact.foreign_files import check_artifact
from edgephi.bundle.artifact.onnx_names import named_files
from edgephi.bundle.artifact.qnn_artifact import QnnArtifact, write_artifact
from edgephi.bundle.certificate import Certificate
from edgephi.bundle.manifest import (
    ARTIFACT_FOLDER,
    SCHEMA,
    Limits,
    Manifest,
    ModelFacts,
    Provenance,
    QuantFacts,
    Requires,
    TargetFacts,
)
from edgephi.bundle.probe import Probe
from edgephi.bundle.unfinished import file_sha256, list_files, seal, unfinished_bundle, write_manifest
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.config import load_architecture
from edgephi.checkpoint.tokenizer import TokenizerFacts, encode, read_tokenizer
from edgephi.declared.recipe import Question
from edgephi.declared.target import read_target
from edgephi.engines.facts.packages import installed_version
from edgephi.engines.qnn import CONFIG_FILE, FACTS
from edgephi.errors import BadInputError, NotSupportedError
from edgephi.runtime.engines.qnn.chip import check_soc, npu_problem
from edgephi.runtime.engines.qnn.library import emulates
from edgephi.runtime.proof.logits import AskedPassage
from edgephi.steps import Step

EXPORTER = "imported"
_QUESTION = Question(prompt="What is your name?", max_tokens=8)


@dataclass(frozen=True)
class Imported:
    """A bundle that was made of somebody's binaries, and why its generation was not probed, "" if it was."""

    manifest: Manifest
    unproven: str


def import_qnn(
    source: Path, output: Path, *, name: str | None, soc: str | None, sequence: int, step: Step
) -> Imported:
    """Wrap the context binaries in the folder `source` into a bundle.

    `name` is the model's, the folder's own when it is None; `soc` the chip, where the binaries do not tell.
    Where the graphs are there too and this machine can run them, the bundle generates before it is sealed.
    Raises BadInputError where files, description and configuration contradict each other.
    """
    if not source.is_dir():
        raise BadInputError(f"{source}: expected a folder, found none", hint="see docs/targets/qnn.md")
    created = time_of_build()
    with step("read the binaries", 0):
        architecture = load_architecture(source)
        tokenizer = read_tokenizer(source, architecture)
        described = describe(source, architecture, soc=soc)
    with unfinished_bundle(output, needs_bytes=_size(source)) as folder:
        with step("copy", 0):
            artifact = described.artifact
            _copy(source, folder / ARTIFACT_FOLDER, artifact, tokenizer)
        manifest = _manifest(
            folder,
            artifact,
            architecture,
            tokenizer,
            name=name or source.resolve().name,
            created=created,
            weight_bits=described.weight_bits,
        )
        manifest = dataclasses.replace(
            manifest, sequence=sequence, provenance=_provenance(source, tokenizer, artifact)
        )
        write_manifest(folder, manifest)
        check_artifact(manifest, lambda entry: folder / entry.path)
        unproven = _why_unproven(artifact)
        if not unproven:
            with step("generate", 0):
                manifest = dataclasses.replace(manifest, probe=_generate(folder, source, architecture))
            write_manifest(folder, manifest)
        with step("seal", 0):
            seal(folder, output)
    return Imported(manifest, unproven)


def _copy(source: Path, artifact_folder: Path, artifact: QnnArtifact, tokenizer: TokenizerFacts) -> None:
    """Write the whole description; copy what it names, and what that names."""
    write_artifact(artifact, artifact_folder)
    waiting = [*artifact.files, *tokenizer.files]
    copied: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in copied:
            continue
        copied.add(name)
        file, target = source / name, artifact_folder / name
        if not file.is_file():
            raise BadInputError(
                f"{source}: expected {name}, found no such file", hint="see docs/targets/qnn.md"
            )
        if not target.resolve().is_relative_to(artifact_folder.resolve()):
            raise BadInputError(f"{source}: expected its own files, found {name[:80]!a}", hint="rename it")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        if name.endswith(".onnx"):
            inside = Path(name).parent
            waiting += [(inside / each).as_posix() for each in sorted(_named(file, source))]


def _named(graph: Path, source: Path) -> frozenset[str]:
    try:
        return named_files(graph)
    except ValueError as cause:
        raise BadInputError(
            f"{source}: {graph.name}: expected an ONNX graph, found {cause}", hint="copy it again"
        ) from None


def _manifest(
    folder: Path,
    artifact: QnnArtifact,
    architecture: Architecture,
    tokenizer: TokenizerFacts,
    *,
    name: str,
    created: str,
    weight_bits: int | None,
) -> Manifest:
    """The manifest of the files in `folder`. Without `weight_bits` their size tells, roughly."""
    target = read_target("qnn")
    files = list_files(folder)
    sizes = {entry.path.removeprefix(f"{ARTIFACT_FOLDER}/"): entry.size for entry in files}
    binaries = {artifact.head.binary, *(part.binary for part in artifact.parts)}
    weights = sum(sizes[each] for each in (*binaries, artifact.embedding.file))
    bits_per_weight = round(8 * weights / architecture.parameters, 3)
    cache_bytes = 1 if artifact.cache_type.endswith("8") else 2
    engine_bytes = FACTS.provider(target.provider).footprint.engine_bytes
    per_token = 2 * architecture.layers * artifact.kv_heads * artifact.head_size * cache_bytes
    bits = weight_bits or (4 if bits_per_weight < 6 else 8)
    return Manifest(
        schema=SCHEMA,
        name=f"{name}-{target.name}",
        sequence=1,
        created=created,
        model=ModelFacts(name, EXPORTER, name, architecture.parameters, architecture.context),
        target=TargetFacts(target.name, target.engine, target.provider, target.arch),
        quant=QuantFacts(
            bits=bits,
            group_size=artifact.embedding.group_size,
            symmetric=True,
            method=EXPORTER,
            embedding_bits=artifact.embedding.bits,
            head_bits=bits,
            bits_per_weight=bits_per_weight,
        ),
        chat=chat_facts(tokenizer),
        limits=Limits(artifact.context),
        requires=Requires(
            memory_bytes=engine_bytes + weights + artifact.context * per_token,
            disk_bytes=sum(entry.size for entry in files),
            engines=dict(target.engines),
            memory_per_token_bytes=per_token,
        ),
        files=files,
        certificate=Certificate(level="off"),
        provenance=Provenance(edgephi.__version__, "", {}, EXPORTER),
    )


def _provenance(source: Path, tokenizer: TokenizerFacts, artifact: QnnArtifact) -> Provenance:
    inputs = [CONFIG_FILE, "config.json", *tokenizer.files, artifact.head.binary]
    inputs += [part.binary for part in artifact.parts]
    return Provenance(
        edgephi=edgephi.__version__,
        command=shlex.join(["edgephi", "import", "qnn", source.resolve().name]),
        inputs={each: file_sha256(source / each) for each in sorted(set(inputs))},
        exporter=f"{EXPORTER}, QAIRT {artifact.qairt}",
    )


def _why_unproven(artifact: QnnArtifact) -> str:
    """Why the bundle cannot generate here, "" when it can."""
    if installed_version(FACTS) is None:
        return "onnxruntime-qnn is not installed"
    if emulates():
        return (
            ""
            if artifact.has_graphs
            else "the emulator needs the graphs of the binaries, which are not there"
        )
    try:
        check_soc(artifact.soc)
    except NotSupportedError as other_chip:
        return other_chip.message
    return npu_problem() or ""


def _generate(folder: Path, source: Path, architecture: Architecture) -> Probe | None:
    """Have the unfinished bundle compute and answer: what it says is the probe of devices."""
    tokens = encode(source, _QUESTION.prompt)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".edgephi-import-") as scratch:
        logits = Path(scratch) / "logits"
        answer = run_engine(
            folder, [AskedPassage(tuple(tokens))], _QUESTION, logits, lambda _bytes: None
        ).answer
        size = logits.stat().st_size
    if size != len(tokens) * architecture.vocabulary_size * 4:
        raise BadInputError(
            f"{source}: expected logits after each token, found {size} bytes", hint="report it"
        )
    return probe_of(_QUESTION, answer)


def _size(source: Path) -> int:
    return sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
