"""`adapter_model.safetensors` of PEFT: which tensors it holds for which module of the model.

A module is named as the model names it, `model.layers.0.self_attn.qkv_proj`; PEFT puts
`base_model.model.` before it and the kind of the tensor behind it.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from edgephi.checkpoint.adapter.low_rank import read_whole
from edgephi.checkpoint.adapter.peft_config import PeftConfig
from edgephi.checkpoint.weights.safetensors import FLOAT_DTYPES, ShardHeader, TensorEntry, read_header
from edgephi.errors import BadCheckpointError

WEIGHTS_FILE = "adapter_model.safetensors"

_PICKLE_FILE = "adapter_model.bin"
_PREFIX = "base_model.model."
_HINT = "the adapter is incomplete or not of this kind: save it again with PEFT's save_pretrained"
_LEFT, _RIGHT, _EMBEDDING_LEFT, _EMBEDDING_RIGHT = "lora_B", "lora_A", "lora_embedding_A", "lora_embedding_B"
_MAGNITUDE, _WHOLE = "lora_magnitude_vector", "weight"
_KINDS = (_LEFT, _RIGHT, _EMBEDDING_LEFT, _EMBEDDING_RIGHT, _MAGNITUDE)
_PARTS_OF_SAVED = (".modules_to_save", ".base_layer")


@dataclass(frozen=True)
class LowRankPair:
    """The two matrices of a module, see `LowRankChange`, and the rows' lengths where it has any."""

    left: TensorEntry
    right: TensorEntry
    magnitude: TensorEntry | None
    transposed: bool

    @property
    def shape(self) -> tuple[int, int]:
        """That of their product."""
        axis = 1 if self.transposed else 0
        return self.left.shape[axis], self.right.shape[1 - axis]

    @property
    def rank(self) -> int:
        """The number of rows that go between the two."""
        return self.right.shape[1 if self.transposed else 0]


@dataclass(frozen=True)
class AdapterFile:
    """An opened file: pairs of matrices by module, and tensors that stand for a module's whole weight."""

    header: ShardHeader
    pairs: Mapping[str, LowRankPair]
    saved: Mapping[str, TensorEntry]


def open_adapter_file(folder: Path, config: PeftConfig, *, owner: str) -> AdapterFile:
    """Read the header of the file in `folder`, and hold it against the configuration.

    Tensors get names that begin with `owner`, so that none is that of another file. Raises
    BadCheckpointError naming the tensor that is missing, unknown, of another shape than it must be, or not
    finite.
    """
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        found = _PICKLE_FILE if (folder / _PICKLE_FILE).is_file() else "none"
        raise BadCheckpointError(
            f"{folder}: expected {WEIGHTS_FILE}, found {found}",
            hint="save the adapter as safetensors; pickle files are never loaded, because they can run code",
        )
    header = read_header(file)
    modules: dict[str, dict[str, TensorEntry]] = {}
    entries = []
    for entry in header.entries:
        module, kind = _module_of(file, entry)
        if kind in modules.setdefault(module, {}):
            _fail(file, entry.name, f"one {kind} for each module, found two for {module}")
        named = dataclasses.replace(entry, name=f"{owner}: {entry.name}")
        modules[module][kind] = named
        entries.append(named)
    if not modules:
        raise BadCheckpointError(f"{file}: expected matrices of an adapter, found none", hint=_HINT)
    pairs = {
        module: _pair(file, module, tensors, config)
        for module, tensors in modules.items()
        if tensors.keys() != {_WHOLE}
    }
    saved = {module: tensors[_WHOLE] for module, tensors in modules.items() if _WHOLE in tensors}
    return AdapterFile(dataclasses.replace(header, entries=tuple(entries), owner=owner), pairs, saved)


def _module_of(file: Path, entry: TensorEntry) -> tuple[str, str]:
    """The module that a tensor belongs to, and what it is there."""
    if not entry.name.startswith(_PREFIX):
        _fail(file, entry.name, f"a name that begins with {_PREFIX}, found another")
    if entry.dtype not in FLOAT_DTYPES:
        _fail(file, entry.name, f"one of {', '.join(FLOAT_DTYPES)}, found {entry.dtype}")
    name = entry.name.removeprefix(_PREFIX)
    for kind in _KINDS:
        for ending in (f".{kind}.weight", f".{kind}"):
            if name.endswith(ending):
                return name.removesuffix(ending), kind
    module = name.removesuffix(f".{_WHOLE}")
    if module == name:
        _fail(file, entry.name, f"a weight, or one of {', '.join(_KINDS)}, found another tensor")
    for part in _PARTS_OF_SAVED:
        module = module.removesuffix(part)
    return module, _WHOLE


def _pair(file: Path, module: str, tensors: Mapping[str, TensorEntry], config: PeftConfig) -> LowRankPair:
    transposed = _EMBEDDING_LEFT in tensors
    kinds = (_EMBEDDING_LEFT, _EMBEDDING_RIGHT) if transposed else (_LEFT, _RIGHT)
    for kind in kinds:
        if kind not in tensors:
            _fail(file, module, f"{' and '.join(kinds)}, found no {kind}")
        if len(tensors[kind].shape) != 2:
            _fail(file, f"{module}.{kind}", f"a matrix, found shape {list(tensors[kind].shape)}")
    magnitude = tensors.get(_MAGNITUDE)
    pair = LowRankPair(tensors[kinds[0]], tensors[kinds[1]], magnitude, transposed)
    ranks = {pair.rank, pair.left.shape[0 if transposed else 1]}
    if ranks != {config.rank_of(module)}:
        found = " and ".join(map(str, sorted(ranks)))
        _fail(file, module, f"rank {config.rank_of(module)} by the configuration, found {found}")
    if config.decomposed and not transposed and magnitude is None:
        _fail(file, module, f"a {_MAGNITUDE}, as use_dora says, found none")
    if magnitude is not None and (transposed or not config.decomposed):
        _fail(file, module, f"no {_MAGNITUDE}, found one")
    if magnitude is not None and int(np.prod(magnitude.shape)) != pair.shape[0]:
        _fail(file, f"{module}.{_MAGNITUDE}", f"{pair.shape[0]} numbers, found shape {list(magnitude.shape)}")
    for entry in (pair.left, pair.right, magnitude):
        if entry is not None and not np.isfinite(read_whole(entry)).all():
            _fail(file, entry.name, "finite numbers, found NaN or infinity")
    return pair


def _fail(file: Path, tensor: str, message: str) -> NoReturn:
    raise BadCheckpointError(f"{file}: {tensor}: expected {message}", hint=_HINT)
