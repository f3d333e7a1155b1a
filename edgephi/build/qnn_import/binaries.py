"""Context binaries that somebody else has compiled: what they say of themselves, held against a description.

The description is a `qnn.json` that may leave out whatever the files tell: shapes and types stand in the
wrappers, Qualcomm's version and the chip in the binaries. What it does say must be what the files say.

Source of the wrappers' format: onnxruntime's docs on EPContext models. The chip and the version are texts of
the compiler's own inside a binary, found in those of QAIRT 2.51; where there are none, the description tells.
"""

import json
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

import onnx

from edgephi.bundle.artifact.qnn_artifact import SCHEMA, QnnArtifact, decode_artifact
from edgephi.checkpoint.architecture import Architecture
from edgephi.declared.soc import Soc, read_soc
from edgephi.engines.qnn import CONFIG_FILE
from edgephi.errors import BadDeclarationError, BadInputError
from edgephi.runtime.engines.qnn.library import binary_qairt_version

_HINT = "docs/targets/qnn.md says what the folder must hold"
_CHIP = re.compile(rb"soc_type=(\w+);arch=(\d+);")
_NUMPY_NAMES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.INT16: "int16",
    onnx.TensorProto.UINT16: "uint16",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "uint8",
}
_NEEDED = ("embedding", "rope", "logits", "parts", "head")


@dataclass(frozen=True)
class Tensor:
    """Type and shape of an input or output."""

    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Wrapper:
    """An EPContext model: the binary that it names, the QAIRT that it says wrote that, inputs and outputs."""

    name: str
    binary: str
    qairt: str
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Described:
    """The whole of `qnn.json`, and the bits of a weight where the description tells them."""

    artifact: QnnArtifact
    weight_bits: int | None


def describe(folder: Path, architecture: Architecture, *, soc: str | None = None) -> Described:
    """The whole of `qnn.json` for the binaries in `folder`, from what is there of it and from the files.

    `soc` names the chip where the binaries do not. Raises BadInputError where description, binaries and
    architecture contradict each other, or a file is missing; BadBundleError where the whole is no artifact.
    """
    given = _read_description(folder)
    parts = [_part(folder, number, part) for number, part in enumerate(given["parts"])]
    head = read_wrapper(folder, given["head"]["wrapper"])
    binaries = [part["binary"] for part in parts] + [_own_binary(head, given["head"])]
    qairt = _qairt(folder, binaries, parts, head)
    chip = _chip(folder, binaries, soc or given.get("soc", {}).get("name"))
    shapes = _shapes(parts, head, architecture)
    rope = {**given["rope"], "rotary": 2 * parts[0]["prefill"].tensors["cos"].shape[-1]}
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "soc": {
            "name": chip.name,
            "soc_model": chip.soc_model,
            "htp_arch": chip.htp_arch,
            "chips": list(chip.chips),
        },
        "qairt": qairt,
        "onnxruntime_qnn": given.get("onnxruntime_qnn", "2.7.0"),
        "provider_options": given.get(
            "provider_options", {"soc_model": str(chip.soc_model), "htp_arch": str(chip.htp_arch)}
        ),
        **shapes,
        "sliding_window": architecture.attention.window,
        "embedding": given["embedding"],
        "rope": rope,
        "logits": given["logits"],
        "parts": [
            {
                "binary": part["binary"],
                "layers": part["layers"],
                "prefill": given["parts"][number]["prefill"],
                "decode": given["parts"][number]["decode"],
            }
            for number, part in enumerate(parts)
        ],
        "head": {**given["head"], "binary": head.binary},
    }
    for key in (*shapes, "qairt", "sliding_window"):
        if key in given and given[key] != found[key]:
            _fail(folder, f"{key}: expected {found[key]}, which the files say, found {given[key]!r:.80}")
    artifact = decode_artifact(json.dumps(found).encode(), where=str(folder / CONFIG_FILE))
    return Described(artifact, _weight_bits(folder, given))


def read_wrapper(folder: Path, name: str) -> Wrapper:
    """Read one EPContext model. Raises BadInputError when it is none."""
    file = folder / name
    if not file.is_file():
        _fail(folder, f"expected the wrapper {name}, found no such file")
    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception as cause:  # protobuf has no class for it
        _fail(folder, f"{name}: expected an ONNX model, found {' '.join(str(cause).split())[:200]}")
    operators = [f"{node.domain or 'ai.onnx'}.{node.op_type}" for node in model.graph.node]
    if operators != ["com.microsoft.EPContext"]:
        shown = ", ".join(sorted(set(operators))[:3]) or "none"
        _fail(folder, f"{name}: expected one operator, com.microsoft.EPContext, found {shown}")
    attributes = {each.name: each for each in model.graph.node[0].attribute}
    if "ep_cache_context" not in attributes or attributes["embed_mode"].i != 0:
        _fail(folder, f"{name}: expected a context binary in a file of its own, found it inside the wrapper")
    version = attributes["ep_sdk_version"].s.decode() if "ep_sdk_version" in attributes else ""
    values = [*model.graph.input, *model.graph.output]
    return Wrapper(
        name=name,
        binary=attributes["ep_cache_context"].s.decode(),
        qairt=version.removeprefix("v"),
        tensors={value.name: _tensor(value) for value in values},
    )


def _read_description(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG_FILE
    try:
        given = json.loads(file.read_bytes())
    except OSError as cause:
        _fail(folder, f"expected a description in {CONFIG_FILE}, found {cause.strerror}")
    except (ValueError, RecursionError) as cause:
        _fail(folder, f"{CONFIG_FILE}: expected JSON, found {cause}")
    missing = [key for key in _NEEDED if not isinstance(given, dict) or not given.get(key)]
    if missing:
        _fail(folder, f"{CONFIG_FILE}: expected {', '.join(_NEEDED)}, found no {missing[0]}")
    for part in [*given["parts"], {"prefill": given["head"], "decode": given["head"]}]:
        for kind in ("prefill", "decode"):
            wrapper = part.get(kind, {}).get("wrapper") if isinstance(part, dict) else None
            if not isinstance(wrapper, str):
                _fail(folder, f"{CONFIG_FILE}: expected a wrapper for {kind} in each part, found none")
    return dict(given)


def _weight_bits(folder: Path, given: Mapping[str, Any]) -> int | None:
    """The bits of a weight, which no file tells."""
    bits = given.get("weight_bits")
    if bits is not None and bits not in (4, 8):
        _fail(folder, f"{CONFIG_FILE}: weight_bits: expected 4 or 8, found {bits!r:.80}")
    return None if bits is None else int(bits)


def _part(folder: Path, number: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """One part: its wrappers, the binary that both name, and the layers that its tensors are named after."""
    prefill = read_wrapper(folder, given["prefill"]["wrapper"])
    decode = read_wrapper(folder, given["decode"]["wrapper"])
    if prefill.binary != decode.binary:
        _fail(folder, f"{decode.name}: expected the binary {prefill.binary}, found {decode.binary}")
    numbers = sorted(
        int(name.removeprefix("past_key_")) for name in prefill.tensors if name.startswith("past_key_")
    )
    if not numbers or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        _fail(folder, f"parts[{number}]: expected inputs past_key_N of consecutive layers, found {numbers}")
    for name in ("hidden", "cos", "sin", "mask"):
        if name not in prefill.tensors:
            _fail(
                folder, f"{prefill.name}: expected an input {name}, found {', '.join(prefill.tensors)[:80]}"
            )
    binary = _own_binary(prefill, given)
    return {
        "binary": binary,
        "layers": [numbers[0], numbers[-1] + 1],
        "prefill": prefill,
        "decode": decode,
    }


def _own_binary(wrapper: Wrapper, given: Mapping[str, Any]) -> str:
    """The binary that a wrapper names, which the description must not contradict."""
    stated = given.get("binary", wrapper.binary)
    if stated != wrapper.binary:
        raise BadInputError(
            f"{wrapper.name}: expected the binary {stated}, found {wrapper.binary}", hint=_HINT
        )
    return wrapper.binary


def _qairt(folder: Path, binaries: list[str], parts: list[dict[str, Any]], head: Wrapper) -> str:
    """The one version of QAIRT that wrote all binaries."""
    stated = {head.binary: head.qairt, **{part["binary"]: part["prefill"].qairt for part in parts}}
    versions: dict[str, str] = {}
    for name in binaries:
        file = folder / name
        if not file.is_file():
            _fail(folder, f"expected the binary {name}, found no such file")
        if file.stat().st_size == 0:
            _fail(folder, f"{name}: expected a context binary, found an empty file")
        inside = binary_qairt_version(file)
        if inside and stated[name] and inside != stated[name]:
            _fail(folder, f"{name}: expected QAIRT {stated[name]}, as its wrapper says, found {inside}")
        if not (inside or stated[name]):
            _fail(folder, f"{name}: expected the version of QAIRT in it or in its wrapper, found none")
        versions[name] = inside or stated[name]
    first = versions[binaries[0]]
    for name, version in versions.items():
        if version != first:
            _fail(folder, f"{name}: expected QAIRT {first}, as in {binaries[0]}, found {version}")
    return first


def _chip(folder: Path, binaries: list[str], named: str | None) -> Soc:
    """The chip that all binaries were compiled for; `named` by the user, where they do not tell."""
    found = {name: _chip_inside(folder / name) for name in binaries}
    chips = {chip for chip in found.values() if chip}
    if len(chips) > 1:
        _fail(folder, f"expected binaries for one chip, found {', '.join(sorted(chips))}")
    if not chips and named is None:
        _fail(folder, "expected binaries that name their chip, found none: --soc does")
    inside = next(iter(chips), None)
    try:
        soc = read_soc(named or inside or "")
    except BadDeclarationError as unknown:
        raise BadInputError(f"{folder}: {unknown.message}", hint=unknown.hint) from None
    if inside is not None and inside.upper() not in soc.chips:
        _fail(folder, f"expected binaries for {soc.name} ({', '.join(soc.chips)}), found them for {inside}")
    return soc


def _chip_inside(binary: Path) -> str:
    """The chip's part number that the compiler wrote into a binary; "" when there is none."""
    with binary.open("rb") as data, mmap.mmap(data.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = _CHIP.search(content)
        return found[1].decode() if found else ""


def _shapes(parts: list[dict[str, Any]], head: Wrapper, architecture: Architecture) -> dict[str, Any]:
    """The numbers of `qnn.json` that stand in the wrappers, held against the model's configuration."""
    prefill = parts[0]["prefill"].tensors
    layer = parts[0]["layers"][0]
    key = prefill[f"past_key_{layer}"]
    logits = head.tensors.get("logits")
    if len(key.shape) != 4 or logits is None or len(logits.shape) != 4:
        raise BadInputError(
            f"{head.name}: expected an output logits and caches of four dimensions, found others", hint=_HINT
        )
    found = {
        "context": key.shape[3],
        "chunk": prefill["hidden"].shape[2],
        "vocabulary": logits.shape[1],
        "hidden": prefill["hidden"].shape[3],
        "kv_heads": key.shape[1],
        "head_size": key.shape[2],
        "cache_type": key.kind,
    }
    expected = {
        "layers": (parts[-1]["layers"][1], architecture.layers),
        "vocabulary": (found["vocabulary"], architecture.vocabulary_size),
        "hidden": (found["hidden"], architecture.hidden_size),
        "kv_heads": (found["kv_heads"], architecture.attention.kv_heads),
        "head_size": (found["head_size"], architecture.attention.head_size),
        "rope.rotary": (2 * prefill["cos"].shape[-1], architecture.attention.rotary.size),
    }
    for name, (is_now, wanted) in expected.items():
        if is_now != wanted:
            raise BadInputError(
                f"{name}: expected {wanted}, as config.json says, found {is_now} in the wrappers",
                hint="config.json is that of another model",
            )
    return found


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    described = value.type.tensor_type
    kind = _NUMPY_NAMES.get(described.elem_type, str(described.elem_type))
    return Tensor(kind, tuple(int(dimension.dim_value) for dimension in described.shape.dim))


def _fail(folder: Path, problem: str) -> Never:
    raise BadInputError(f"{folder}: {problem}", hint=_HINT)
