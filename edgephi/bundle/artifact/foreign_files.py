"""Whether an artifact keeps to its bundle: the files that it names are in it, and its headers fit.

Every file may be what the manifest says, and the artifact still lead out: an ONNX graph names the files of
its weights, a configuration those of its graphs, and engines open what they are told to. A signature says
that somebody vouches for that; without one nobody does.
"""

import json
import posixpath
import re
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from edgephi.bundle.artifact.onnx_names import named_files
from edgephi.bundle.artifact.qnn_artifact import decode_artifact
from edgephi.bundle.chunks import FileEntry
from edgephi.bundle.manifest import Manifest
from edgephi.engines import mlx_lm, onnxruntime_genai, qnn
from edgephi.errors import BadBundleError

Locate = Callable[[FileEntry], Path]

_LARGEST_CONFIGURATION_BYTES = 16 << 20
_LARGEST_HEADER_BYTES = 16 << 20  # as much as 100,000 tensors need
# Keys of genai_config.json, and of the options that it hands to onnxruntime and its providers.
_OWN_FILE = re.compile(r"filename$")
_PLACE = re.compile(r"file|path|dir|folder")
_CODE = re.compile(r"library")
_MLX_CODE = "model_file"  # mlx-lm runs this Python file of the model's folder
_INDEX_SUFFIX = ".safetensors.index.json"
_GGUF_HEAD = struct.Struct("<4sIQQ")
_SMALLEST_GGUF_TENSOR_BYTES, _SMALLEST_GGUF_PAIR_BYTES = 24, 13


def check_artifact(manifest: Manifest, locate: Locate, *, entries: Iterable[FileEntry] | None = None) -> None:
    """Raise BadBundleError when an artifact names a file that is not the bundle's, or loads code.

    `locate` says where the content of a file is now; each is what the manifest says it is. `entries` are the
    files to look into, None all.
    """
    files = {entry.path for entry in manifest.files}
    for entry in manifest.files if entries is None else entries:
        name = posixpath.basename(entry.path)
        try:
            if name.endswith(".onnx"):
                _check_names(entry, named_files(locate(entry)), files)
            elif name == onnxruntime_genai.CONFIG_FILE:
                _check_configuration(entry, _read_json(entry, locate(entry)), files)
            elif name == mlx_lm.CONFIG_FILE:
                _check_mlx_configuration(entry, _read_json(entry, locate(entry)))
            elif name == qnn.CONFIG_FILE:
                artifact = decode_artifact(locate(entry).read_bytes(), where=entry.path)
                _check_names(entry, frozenset(artifact.files), files)
            elif name.endswith(_INDEX_SUFFIX):
                _check_names(entry, _indexed(_read_json(entry, locate(entry))), files)
            elif name.endswith(".safetensors"):
                _check_safetensors(entry, locate(entry))
            elif name.endswith(".gguf"):
                _check_gguf(entry, locate(entry))
        except (ValueError, RecursionError) as cause:
            raise _refusal(entry, f"expected {_kind(name)}, found {cause}") from None


def _check_names(entry: FileEntry, names: frozenset[str], files: set[str]) -> None:
    """Raise BadBundleError unless all `names`, relative to the folder of `entry`, are files of the bundle."""
    folder = posixpath.dirname(entry.path)
    for name in sorted(names):
        if posixpath.join(folder, name) not in files:  # "a/../b" is not: a manifest has no such path
            raise _refusal(entry, f"expected names of the bundle's own files, found {name[:80]!a}")


def _check_configuration(entry: FileEntry, value: Any, files: set[str]) -> None:
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(str(each), inside) for each, inside in value.items()]
        elif isinstance(value, list):
            waiting += [(key, inside) for inside in value]
        elif isinstance(value, str) and value:
            if _CODE.search(key):
                raise _refusal(entry, f"expected no code to load, found {key[:80]!a}: {value[:80]!a}")
            if _OWN_FILE.search(key):
                _check_names(entry, frozenset([value]), files)
            elif _PLACE.search(key) and ("/" in value or "\\" in value):
                raise _refusal(entry, f"expected no place outside, found {key[:80]!a}: {value[:80]!a}")


def _check_mlx_configuration(entry: FileEntry, value: Any) -> None:
    if isinstance(value, dict) and value.get(_MLX_CODE):
        raise _refusal(
            entry, f"expected no code to load, found {_MLX_CODE!a}: {str(value[_MLX_CODE])[:80]!a}"
        )


def _indexed(index: Any) -> frozenset[str]:
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict):
        raise ValueError("no weight_map")
    return frozenset(map(str, weights.values()))


def _check_safetensors(entry: FileEntry, path: Path) -> None:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if entry.size < 8 or not 2 <= size <= min(entry.size - 8, _LARGEST_HEADER_BYTES):
            raise ValueError(f"a header of {size} bytes in a file of {entry.size}")
        header = json.loads(file.read(size))
    if not isinstance(header, dict):
        raise ValueError("a header that is no table")
    end = 0
    tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
    for begin, stop in sorted(_offsets(tensor) for tensor in tensors):
        if begin != end or stop < begin:
            raise ValueError(f"a tensor from {begin} to {stop} where {end} is next")
        end = stop
    if end != entry.size - 8 - size:
        raise ValueError(f"tensors of {end} bytes in {entry.size - 8 - size}")


def _offsets(tensor: Any) -> tuple[int, int]:
    offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(each) is int for each in offsets)):
        raise ValueError("a tensor without offsets")
    return offsets[0], offsets[1]


def _check_gguf(entry: FileEntry, path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(_GGUF_HEAD.size)
    if len(head) < _GGUF_HEAD.size:
        raise ValueError(f"{len(head)} bytes")
    magic, version, tensors, pairs = _GGUF_HEAD.unpack(head)
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError(f"{magic!r}, version {version}")
    if tensors * _SMALLEST_GGUF_TENSOR_BYTES + pairs * _SMALLEST_GGUF_PAIR_BYTES > entry.size:
        raise ValueError(f"{tensors} tensors and {pairs} facts in {entry.size} bytes")


def _read_json(entry: FileEntry, path: Path) -> Any:
    if entry.size > _LARGEST_CONFIGURATION_BYTES:
        raise ValueError(f"{entry.size} bytes")
    return json.loads(path.read_bytes())


def _kind(name: str) -> str:
    kinds = {".onnx": "an ONNX graph", ".safetensors": "safetensors", ".gguf": "GGUF"}
    return kinds.get(posixpath.splitext(name)[1], "a configuration in JSON")


def _refusal(entry: FileEntry, problem: str) -> BadBundleError:
    return BadBundleError(
        f"{entry.path}: {problem}", hint="do not use this bundle; build it from its checkpoint"
    )
