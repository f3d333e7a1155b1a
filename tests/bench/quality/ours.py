"""edgephi: real bundles that its command line builds, read back as each engine will read them.

Another method, format or setting is another line of `WAYS`.
"""

import functools
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gguf import GGML_QUANT_SIZES
from tokenizers import Tokenizer

from edgephi.build.plan import Plan, make_plan
from edgephi.bundle.manifest import ARTIFACT_FOLDER, read_manifest
from edgephi.checkpoint.config import load_architecture
from edgephi.declared.recipe import Keep, read_recipe
from edgephi.declared.target import read_target
from edgephi.engines.llama_cpp import MODEL_FILE
from edgephi.export.exporter import exporter
from edgephi.export.gguf.parts import gguf_name
from edgephi.export.gguf.weights import read_tensors
from edgephi.export.tensor_names import tensor_name
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import quantised_tensors
from edgephi.reference.weights import Weights
from tests.bench import measure
from tests.bench.quality.harness import EMBEDDING, HEAD, Arrays
from tests.bench.quality.padded import cut, shape_of, write_padded
from tests.bench.quality.quantised import Quantised, Subject, Way

Quant = Mapping[str, str | int | bool | Mapping[str, float]]


@dataclass(frozen=True)
class Build:
    """A bundle to build: for which target, and what its recipe says under `[quant]`.

    `padded`: of the model in a wider shape, whose rows are whole super-blocks.
    `on_peers_text`: calibrated with what peers get, which is of the same kinds as what is measured on.
    """

    who: str
    target: str
    quant: Quant
    padded: bool = False
    on_peers_text: bool = False


_RTN, _SEARCH, _WEIGHTED, _CALIBRATED = (
    {"method": method} for method in ("rtn", "search", "weighted", "calibrated")
)
_SYM: dict[str, str | int] = {"formats": "portable", "symmetric": True}
_ASYM: dict[str, str | int] = {"formats": "portable", "symmetric": False}
_NATIVE = {"formats": "native"}  # of `cpu` groups with a zero point, of `gguf` K-quants
_G32, _G64 = {"group_size": 32}, {"group_size": 64}
_INT4_VOCABULARY = {"embedding_bits": 4, "head_bits": 4}
INT8_VOCABULARY = {"embedding_bits": 8, "head_bits": 8}

BUILDS = (
    Build("rtn sym g32", "cpu", {**_RTN, **_SYM, **_G32, **_INT4_VOCABULARY}),
    Build("search sym g64", "cpu", {**_SEARCH, **_SYM, **_G64, **_INT4_VOCABULARY}),
    Build("search sym g32", "cpu", {**_SEARCH, **_SYM, **_G32, **_INT4_VOCABULARY}),
    Build("search asym g32", "cpu", {**_SEARCH, **_ASYM, **_G32, **_INT4_VOCABULARY}),
    Build("search sym g32, int8 vocabulary", "cpu", {**_SEARCH, **_SYM, **_G32, **INT8_VOCABULARY}),
    Build("search asym g32, int8 vocabulary", "cpu", {**_SEARCH, **_NATIVE, **_G32, **INT8_VOCABULARY}),
    Build("weighted sym g32", "cpu", {**_WEIGHTED, **_SYM, **_G32, **_INT4_VOCABULARY}),
    Build("weighted asym g32", "cpu", {**_WEIGHTED, **_NATIVE, **_G32, **_INT4_VOCABULARY}),
    Build("weighted sym g64, int8 vocabulary", "cpu", {**_WEIGHTED, **_SYM, **_G64, **INT8_VOCABULARY}),
    Build("weighted sym g32, int8 vocabulary", "cpu", {**_WEIGHTED, **_SYM, **_G32, **INT8_VOCABULARY}),
    Build("weighted asym g32, int8 vocabulary", "cpu", {**_WEIGHTED, **_NATIVE, **_G32, **INT8_VOCABULARY}),
    Build("calibrated sym g32", "cpu", {**_CALIBRATED, **_SYM, **_G32, **_INT4_VOCABULARY}),
    Build("calibrated asym g32", "cpu", {**_CALIBRATED, **_NATIVE, **_G32, **_INT4_VOCABULARY}),
    Build("calibrated sym g32, int8 vocabulary", "cpu", {**_CALIBRATED, **_SYM, **_G32, **INT8_VOCABULARY}),
    Build(
        "calibrated asym g32, int8 vocabulary", "cpu", {**_CALIBRATED, **_NATIVE, **_G32, **INT8_VOCABULARY}
    ),
    Build(
        "calibrated asym g32, int8 vocabulary, on the peers' text",
        "cpu",
        {**_CALIBRATED, **_NATIVE, **_G32, **INT8_VOCABULARY},
        on_peers_text=True,
    ),
    Build("weighted asym g64, int8 vocabulary", "cpu", {**_WEIGHTED, **_NATIVE, **_G64, **INT8_VOCABULARY}),
    Build("weighted asym g32, keep 0.03", "cpu", {**_WEIGHTED, **_NATIVE, **_G32, "keep": {"auto": 0.03}}),
    Build("weighted asym g32, keep 0.095", "cpu", {**_WEIGHTED, **_NATIVE, **_G32, "keep": {"auto": 0.095}}),
    Build(
        "calibrated asym g32, keep 0.095", "cpu", {**_CALIBRATED, **_NATIVE, **_G32, "keep": {"auto": 0.095}}
    ),
    Build("search Q4_0, int8 vocabulary", "gguf", {**_SEARCH, **_SYM, **INT8_VOCABULARY}),
    Build("search K-quants", "gguf", {**_SEARCH, **_NATIVE, **INT8_VOCABULARY}),
    Build("search K-quants padded", "gguf", {**_SEARCH, **_NATIVE, **INT8_VOCABULARY}, padded=True),
    Build("weighted K-quants", "gguf", {**_WEIGHTED, **_NATIVE, **INT8_VOCABULARY}),
    Build("weighted K-quants padded", "gguf", {**_WEIGHTED, **_NATIVE, **INT8_VOCABULARY}, padded=True),
    Build(
        "weighted small K-quants padded", "gguf", {**_WEIGHTED, **_NATIVE, "mixture": "small"}, padded=True
    ),
    Build(
        "weighted K-quants padded, keep 0.10",
        "gguf",
        {**_WEIGHTED, **_NATIVE, "keep": {"auto": 0.1}},
        padded=True,
    ),
    Build(
        "weighted K-quants padded, keep 0.30",
        "gguf",
        {**_WEIGHTED, **_NATIVE, "keep": {"auto": 0.3}},
        padded=True,
    ),
    Build("calibrated K-quants", "gguf", {**_CALIBRATED, **_NATIVE, **INT8_VOCABULARY}),
    Build("calibrated K-quants padded", "gguf", {**_CALIBRATED, **_NATIVE, **INT8_VOCABULARY}, padded=True),
)


def ways() -> list[Way]:
    """All of `BUILDS`."""
    return [
        Way(f"edgephi {each.target}: {each.who}", functools.partial(_quantise, build=each)) for each in BUILDS
    ]


def _quantise(subject: Subject, build: Build) -> Quantised:
    folder = subject.scratch / "bundle"
    checkpoint = subject.checkpoint
    if build.padded:
        checkpoint = write_padded(checkpoint, subject.original, subject.scratch / "padded")
    text = None
    if build.on_peers_text:
        text = subject.scratch / "peers.jsonl"
        text.write_text(_records(subject), encoding="utf-8")
    cost = make_bundle(build, checkpoint, folder, text)
    weights, bits = read_bundle(build, checkpoint, folder)
    shutil.rmtree(folder)
    if build.padded:
        shutil.rmtree(checkpoint)
        weights = cut(weights, shape_of(subject.checkpoint))
    return Quantised(weights, *subject.bits(bits), cost.seconds, cost.peak_bytes)


def make_bundle(build: Build, checkpoint: Path, folder: Path, text: Path | None = None) -> measure.Cost:
    """Build a bundle into `folder`, with the files of the build beside it, calibrated on `text`, or ours."""
    shutil.rmtree(folder, ignore_errors=True)
    recipe = _recipe_file(folder)
    recipe.write_text(_recipe(build.quant), encoding="utf-8")
    options: tuple[str | Path, ...] = ("--target", build.target, "--recipe", recipe, "--verify", "off")
    options += () if text is None else ("--calibrate", text)
    command = measure.edgephi("build", checkpoint, "-o", folder, *options)
    return measure.run(command, log=folder.with_suffix(".log"))


def read_bundle(build: Build, checkpoint: Path, folder: Path) -> tuple[Arrays, dict[str, float]]:
    """What a bundle computes with, and the bits a weight of each of its matrices."""
    architecture = load_architecture(checkpoint)
    target = read_target(build.target)
    weights = exporter(target.engine).artifact_weights(folder / ARTIFACT_FOLDER, architecture)
    recipe = read_recipe(str(_recipe_file(folder)))
    # As it was built: with the names of what the build chose to keep at more bits.
    quant = replace(recipe.quant, keep=Keep(read_manifest(folder).quant.kept), bits_per_weight=None)
    plan = make_plan(str(checkpoint), architecture, replace(recipe, quant=quant), target)
    return read_back(weights), _stored_bits(folder / ARTIFACT_FOLDER, plan)


def _recipe_file(folder: Path) -> Path:
    return folder.with_suffix(".toml")


def read_back(weights: Weights) -> Arrays:
    """All weights of an artifact, float32, by the names that transformers gives them."""
    shapes = weights.architecture.tensor_shapes()
    found = {tensor_name(tensor): weights.rows(tensor, 0, shape[0]) for tensor, shape in shapes.items()}
    return {**found, HEAD: found.get(HEAD, found[EMBEDDING])}


def _records(subject: Subject) -> str:
    """The text that peers are calibrated with, as `--calibrate` reads it: a line for each of its pieces."""
    tokenizer = Tokenizer.from_file(str(subject.checkpoint / "tokenizer.json"))
    pieces = (tokenizer.decode(list(ids), skip_special_tokens=False) for ids in subject.text.calibration)
    return "".join(f"{json.dumps({'text': piece})}\n" for piece in pieces)


def _recipe(quant: Quant) -> str:
    """A recipe for any checkpoint. A bench wants to see bad bundles too, so its gates let all pass."""
    settings = "".join(f"{key} = {_toml(value)}\n" for key, value in quant.items())
    return f'name = "bench"\nsummary = "A row of a bench"\n[quant]\n{settings}'


def _toml(value: str | int | bool | Mapping[str, float]) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {number}" for key, number in value.items()) + " }"
    return json.dumps(value)


def _stored_bits(artifact: Path, plan: Plan) -> dict[str, float]:
    """Bits a weight of every matrix. Scales are counted as float16 though some engines want them wider."""
    shapes, engine = plan.architecture.tensor_shapes(), plan.target.engine
    if engine == "llama.cpp":  # has types that no scheme describes
        stored = read_tensors(artifact / MODEL_FILE)
        matrices = [tensor for tensor, shape in shapes.items() if len(shape) == 2]
        sizes = {tensor: GGML_QUANT_SIZES[stored[gguf_name(tensor)].kind] for tensor in matrices}
        return {tensor_name(tensor): 8 * size / block for tensor, (block, size) in sizes.items()}
    schemes = quantised_tensors(plan.tensors)
    return {
        tensor_name(tensor): _scheme_bits(scheme, shapes[tensor][1], engine)
        for tensor, scheme in schemes.items()
    }


def _scheme_bits(scheme: Scheme, columns: int, engine: str) -> float:
    """Bits a weight of codes, scales and zero points, in an engine's format."""
    if scheme.scales == "multiples":  # of a float16 a row, whole numbers of 4 bits
        return scheme.bits + 16 / columns + (4 / scheme.group_size if scheme.bits == 4 else 0)
    if engine == "mlx-lm":  # a bias for each group, whether its format needs one or not
        return scheme.bits + 32 / scheme.group_size
    return scheme.bits + (16 + (0 if scheme.symmetric else scheme.bits)) / scheme.group_size
