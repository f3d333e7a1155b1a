"""`qnn.json`: what a QNN artifact says of itself. Builders write it; it is read before anything is opened.

The format is described in docs/targets/qnn.md. Needs nothing but the standard library.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgephi.commands import edgephi_command
from edgephi.engines.qnn import CONFIG_FILE
from edgephi.errors import BadBundleError
from edgephi.records import read_record, write_record

SCHEMA = "edgephi.qnn/1"

PROVIDER_OPTIONS = frozenset(
    {
        "soc_model",
        "htp_arch",
        "vtcm_mb",
        "enable_htp_fp16_precision",
        "enable_block_quant_weight_optimization",
        "enable_htp_weight_sharing",
        "htp_graph_finalization_optimization_mode",
        "htp_performance_mode",
        "offload_graph_io_quantization",
    }
)
"""What a bundle may tell Qualcomm's provider. Others name libraries to load, or files to write."""

_OPTION_VALUE = re.compile(r"[a-z0-9_]{1,40}", re.ASCII)
_HINT = f"build the bundle again, or copy it again and check it with `{edgephi_command('verify')}`"


@dataclass(frozen=True)
class ArtifactSoc:
    """The chip that was compiled for. `chips` are its part numbers, as the kernel names them."""

    name: str
    soc_model: int
    htp_arch: int
    chips: tuple[str, ...] = ()


@dataclass(frozen=True)
class Embedding:
    """Where the rows of the embedding are: codes of `bits` bits, then float16 scales, one a group."""

    file: str
    bits: Literal[4, 8]
    group_size: int
    codes_offset: int
    scales_offset: int


@dataclass(frozen=True)
class Rope:
    """The table of angles: uint16 [2, context, rotary / 2], cosines and then sines."""

    file: str
    rotary: int


@dataclass(frozen=True)
class LogitsEncoding:
    """logits = (raw - zero_point) * scale."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class GraphFiles:
    """One graph: the wrapper around its context binary, and the graph that it was compiled from.

    `graph` is empty when only the binary is there, as in bundles that were imported.
    """

    wrapper: str
    graph: str = ""


@dataclass(frozen=True)
class Part:
    """Some layers, from the first of `layers` to before the second: a graph for a chunk, one for a token."""

    binary: str
    layers: tuple[int, ...]
    prefill: GraphFiles
    decode: GraphFiles


@dataclass(frozen=True)
class Head:
    """The last norm and the logits of one position."""

    binary: str
    wrapper: str
    graph: str = ""


@dataclass(frozen=True)
class QnnArtifact:
    """The whole of `qnn.json`, in its order.

    `context` is the slots of the cache, `chunk` the tokens of a prefill call. `qairt` and `onnxruntime_qnn`
    are the versions of what compiled; a device must not be behind the first.
    """

    schema: str
    qairt: str
    onnxruntime_qnn: str
    soc: ArtifactSoc
    provider_options: dict[str, str]
    context: int
    chunk: int
    sliding_window: int | None
    vocabulary: int
    hidden: int
    kv_heads: int
    head_size: int
    cache_type: Literal["int16", "uint8", "uint16", "int8"]
    embedding: Embedding
    rope: Rope
    logits: LogitsEncoding
    parts: tuple[Part, ...]
    head: Head

    @property
    def has_graphs(self) -> bool:
        """Whether everything can be compiled again, and so run in the emulator."""
        return bool(self.head.graph) and all(part.prefill.graph and part.decode.graph for part in self.parts)

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that it names, relative to its folder."""
        graphs: list[GraphFiles | Head] = [self.head]
        for part in self.parts:
            graphs += [part.prefill, part.decode]
        named = [self.embedding.file, self.rope.file, self.head.binary, *(part.binary for part in self.parts)]
        named += [name for graph in graphs for name in (graph.wrapper, graph.graph) if name]
        return tuple(dict.fromkeys(named))


def read_artifact(folder: Path) -> QnnArtifact:
    """Read `qnn.json` in the folder of an artifact. Raises BadBundleError when it is none we can trust."""
    file = folder / CONFIG_FILE
    try:
        data = file.read_bytes()
    except OSError as cause:
        raise BadBundleError(f"{file}: expected JSON, found {cause.strerror}", hint=_HINT) from None
    return decode_artifact(data, where=str(file))


def write_artifact(artifact: QnnArtifact, folder: Path) -> None:
    """Write `qnn.json` into the folder of an artifact."""
    text = json.dumps(write_record(artifact), indent=2) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


def decode_artifact(data: bytes, *, where: str) -> QnnArtifact:
    """Read the bytes of `qnn.json`; `where` names them in messages. Raises as `read_artifact` does."""
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError) as cause:
        raise BadBundleError(f"{where}: expected JSON, found {cause}", hint=_HINT) from None
    schema = plain.get("schema") if isinstance(plain, dict) else None
    if schema != SCHEMA:
        raise BadBundleError(
            f"{where}: expected schema {SCHEMA!r}, found {schema!r:.80}",
            hint="use the edgephi version that wrote it, or build it again with this one",
        )
    artifact = read_record(QnnArtifact, plain, where=where, error=BadBundleError, hint=_HINT)
    _check(artifact, where)
    return artifact


def _check(artifact: QnnArtifact, where: str) -> None:
    """Raise BadBundleError for numbers that contradict each other."""
    counts = {
        "context": artifact.context,
        "chunk": artifact.chunk,
        "vocabulary": artifact.vocabulary,
        "hidden": artifact.hidden,
        "kv_heads": artifact.kv_heads,
        "head_size": artifact.head_size,
        "embedding.group_size": artifact.embedding.group_size,
        "rope.rotary": artifact.rope.rotary,
        "sliding_window": 1 if artifact.sliding_window is None else artifact.sliding_window,
    }
    for name, count in counts.items():
        if count < 1:
            raise BadBundleError(f"{where}: {name}: expected 1 or more, found {count}", hint=_HINT)
    if artifact.hidden % artifact.embedding.group_size:
        raise BadBundleError(
            f"{where}: embedding.group_size: expected a divisor of {artifact.hidden}, "
            f"found {artifact.embedding.group_size}",
            hint=_HINT,
        )
    for key, value in artifact.provider_options.items():
        if key not in PROVIDER_OPTIONS or _OPTION_VALUE.fullmatch(value) is None:
            raise BadBundleError(
                f"{where}: provider_options: expected options that compile for a chip, "
                f"found {key[:80]!a}: {value[:80]!a}",
                hint="do not use this bundle; build it from its checkpoint",
            )
    next_layer = 0
    for number, part in enumerate(artifact.parts):
        if len(part.layers) != 2 or part.layers[0] != next_layer or part.layers[1] <= next_layer:
            raise BadBundleError(
                f"{where}: parts[{number}].layers: expected layers from {next_layer} on, "
                f"found {list(part.layers)}",
                hint=_HINT,
            )
        next_layer = part.layers[1]
    if next_layer == 0:
        raise BadBundleError(f"{where}: parts: expected layers, found none", hint=_HINT)
    for name in artifact.files:
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise BadBundleError(
                f"{where}: expected names of the artifact's own files, found {name[:80]!a}", hint=_HINT
            )
