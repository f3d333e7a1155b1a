"""A checkpoint with adapters: the same files, changed as they are read. Nothing is loaded or written."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from edgephi.bundle.switched_adapter import merge_hint
from edgephi.checkpoint.adapter.adapter_file import AdapterFile, open_adapter_file
from edgephi.checkpoint.adapter.low_rank import LowRankChange
from edgephi.checkpoint.adapter.peft_config import PeftConfig, read_peft_config
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.checkpoint import Checkpoint, in_stored_order, read_rows
from edgephi.checkpoint.config import family_of
from edgephi.checkpoint.located import Located
from edgephi.checkpoint.roles import EMBEDDING, HEAD, ModelTensor
from edgephi.checkpoint.weights.safetensors import TensorEntry, read_tensor_rows
from edgephi.checkpoint.weights.source import Source
from edgephi.errors import BadCheckpointError, NotSupportedError

_HEAD_MODULE = "lm_head"
_BLOCK_ROWS = 512
_HINT = "give the adapter with the checkpoint that it was trained on"


@dataclass(frozen=True)
class StrengthenedAdapter:
    """An adapter on this disk, and by how much its low-rank changes are multiplied."""

    located: Located
    scale: float = 1.0


def merged(checkpoint: Checkpoint, adapters: Sequence[StrengthenedAdapter]) -> Checkpoint:
    """The checkpoint with all adapters merged into it, one after the other.

    Its weights are those of PEFT's `merge_and_unload` in float32, computed a block of rows at a time. Raises
    BadCheckpointError for an adapter that is broken or of another model, NotSupportedError for one that
    needs more than changes of the same weights.
    """
    for adapter in adapters:
        checkpoint = _with_adapter(checkpoint, adapter)
    return checkpoint


def _with_adapter(checkpoint: Checkpoint, adapter: StrengthenedAdapter) -> Checkpoint:
    located = adapter.located
    config = read_peft_config(located.folder)
    owners = {shard.owner for shard in checkpoint.shards}
    # The same one may be given twice, and two may have folders of one name.
    owner = next(name for name in numbered(located.id) if name not in owners)
    file = open_adapter_file(located.folder, config, owner=owner)
    _check_not_shared(checkpoint.architecture, file, located.id)
    checkpoint = _with_saved(checkpoint, file, located.id)
    changes = dict(checkpoint.changes)
    for tensor, whole in _changes(checkpoint, adapter, config, file).values():
        for name, change in _of_stored(checkpoint.sources[tensor], whole):
            changes[name] = (*changes.get(name, ()), change)
    return dataclasses.replace(checkpoint, changes=changes)


def changes_of(
    checkpoint: Checkpoint, adapter: StrengthenedAdapter
) -> dict[str, tuple[ModelTensor, LowRankChange]]:
    """What an adapter of low-rank changes alone changes of the model's tensors, by its modules.

    Raises as `merged` does, and NotSupportedError for an adapter that holds a module's weights whole. But
    PEFT saves head and embedding too where it has changes of them: those of the checkpoint itself pass.
    """
    located = adapter.located
    config = read_peft_config(located.folder)
    file = open_adapter_file(located.folder, config, owner=located.id)
    _check_not_shared(checkpoint.architecture, file, located.id)
    for module, entry in file.saved.items():
        if not _is_there_already(checkpoint, module, entry):
            raise NotSupportedError(
                f"{located.id}: {module}: expected low-rank changes alone, found other weights of it whole",
                hint=merge_hint(),
            )
    return _changes(checkpoint, adapter, config, file)


def _is_there_already(checkpoint: Checkpoint, module: str, entry: TensorEntry) -> bool:
    """Whether the weights that an adapter holds of a module are those that the checkpoint has of it."""
    tensor, rows = _modules(checkpoint).get(module, (None, range(0)))
    if tensor is None or entry.shape != checkpoint.architecture.tensor_shapes()[tensor]:
        return False
    blocks = (range(start, min(start + _BLOCK_ROWS, len(rows))) for start in range(0, len(rows), _BLOCK_ROWS))
    return rows == range(entry.shape[0]) and all(
        np.array_equal(read_tensor_rows(entry, block), read_rows(checkpoint, tensor, block[0], block[-1] + 1))
        for block in blocks
    )


def _changes(
    checkpoint: Checkpoint, adapter: StrengthenedAdapter, config: PeftConfig, file: AdapterFile
) -> dict[str, tuple[ModelTensor, LowRankChange]]:
    """The change of rows of a model's tensor that each module's pair of matrices is."""
    id_, modules, shapes = adapter.located.id, _modules(checkpoint), checkpoint.architecture.tensor_shapes()
    changes = {}
    for module, pair in file.pairs.items():
        tensor, rows = _place(checkpoint, modules, module, id_)
        expected = (len(rows), shapes[tensor][-1])
        if pair.shape != expected:
            _fail(id_, module, f"a change of shape {list(expected)}, found {list(pair.shape)}")
        changes[module] = (
            tensor,
            LowRankChange(
                rows=rows,
                own=range(len(rows)),
                left=pair.left,
                right=pair.right,
                factor=adapter.scale * config.factor_of(module),
                magnitude=pair.magnitude,
                transposed=pair.transposed,
            ),
        )
    return changes


def numbered(id_: str) -> Iterator[str]:
    """Names for adapters of one id, in their order: those of two folders may be the same."""
    yield id_
    yield from (f"{id_} ({number})" for number in itertools.count(2))


def _modules(checkpoint: Checkpoint) -> dict[str, tuple[ModelTensor, range]]:
    """The rows of the model's tensors that each module's weight is, by the module's name."""
    architecture = checkpoint.architecture
    family = family_of(architecture.model_type)
    every = [(tensor, source) for tensor, own in family.sources(architecture).items() for source in own]
    times = Counter(source.tensor for _, source in every)
    own = {
        source.tensor.removesuffix(".weight"): (tensor, source.into)
        for tensor, source in every
        if times[source.tensor] == 1
    }
    return {**family.other_modules(architecture), **own}


def _check_not_shared(architecture: Architecture, file: AdapterFile, id_: str) -> None:
    """Refuse a low-rank change of one of two that are one matrix.

    Where it was trained it changed one of them, and PEFT's merge may change both
    (https://github.com/huggingface/peft/issues/2777).
    """
    shared = file.pairs.keys() & {_HEAD_MODULE, _embedding_module(architecture)}
    if architecture.tied_embeddings and shared:
        raise NotSupportedError(
            f"{id_}: {min(shared)}: expected no change of a matrix that embedding and head share, found one",
            hint="merge it where it was trained, and build the checkpoint that results",
        )


def _place(
    checkpoint: Checkpoint, modules: Mapping[str, tuple[ModelTensor, range]], module: str, id_: str
) -> tuple[ModelTensor, range]:
    """Which tensor's rows a low-rank change of `module` is about."""
    if module in modules:
        return modules[module]
    if f"{module}.weight" in checkpoint.tensors:
        raise NotSupportedError(
            f"{id_}: {module}: expected a matrix whose rows stay in their order, found one of a "
            f"{checkpoint.architecture.model_type!r} that is taken apart",
            hint="merge it where it was trained, and build the checkpoint that results",
        )
    return _no_module(checkpoint, module, id_)


def _no_module(checkpoint: Checkpoint, module: str, id_: str) -> NoReturn:
    """Refuse a change of what is none of the decoder's modules."""
    stored = {source.tensor for own in checkpoint.image_sources.values() for source in own}
    if f"{module}.weight" in stored:
        raise NotSupportedError(
            f"{id_}: {module}: expected a change of what reads text, found one of the image encoder",
            hint="merge it where it was trained, and build the checkpoint that results",
        )
    _fail(id_, module, f"a module of {checkpoint.id}, found none of that name")


def _of_stored(sources: tuple[Source, ...], change: LowRankChange) -> Iterator[tuple[str, LowRankChange]]:
    """A change of a model's tensor as one of each stored tensor that its rows are from, by its name."""
    first, stop = change.rows.start, change.rows.stop
    for source in sources:
        stored, into = source.within(first, stop)
        if stored:
            own = range(into.start - first, into.stop - first, into.step)
            yield source.tensor, dataclasses.replace(change, rows=stored, own=own)


def _with_saved(checkpoint: Checkpoint, file: AdapterFile, id_: str) -> Checkpoint:
    """The checkpoint with the adapter's file, and with the weights that it holds whole."""
    architecture, sources = checkpoint.architecture, dict(checkpoint.sources)
    if architecture.tied_embeddings and file.saved.keys() & {_HEAD_MODULE, _embedding_module(architecture)}:
        # A copy of one of the two was trained: they are no longer the same matrix.
        architecture = dataclasses.replace(architecture, tied_embeddings=False)
        sources[HEAD] = sources[EMBEDDING]
    checkpoint = dataclasses.replace(checkpoint, architecture=architecture)
    modules, shapes = _modules(checkpoint), architecture.tensor_shapes()
    replaced: dict[str, TensorEntry] = {}
    for module, entry in file.saved.items():
        if module not in modules:
            _no_module(checkpoint, module, id_)
        tensor, rows = modules[module]
        if len(rows) != shapes[tensor][0]:
            _fail(id_, module, f"the whole of {tensor}, found a part of it")
        if entry.shape != shapes[tensor]:
            _fail(id_, module, f"shape {list(shapes[tensor])}, found {list(entry.shape)}")
        replaced[entry.name] = entry
        sources[tensor] = (Source(entry.name, rows, rows),)
    shards = (*checkpoint.shards, file.header)
    used = {source.tensor for own in sources.values() for source in own}
    tensors = {name: entry for name, entry in {**checkpoint.tensors, **replaced}.items() if name in used}
    return dataclasses.replace(
        checkpoint,
        shards=shards,
        tensors=tensors,
        sources=in_stored_order(sources, shards),
        changes={name: change for name, change in checkpoint.changes.items() if name in used},
    )


def _embedding_module(architecture: Architecture) -> str:
    (source,) = family_of(architecture.model_type).sources(architecture)[EMBEDDING]
    return source.tensor.removesuffix(".weight")


def _fail(id_: str, module: str, message: str) -> NoReturn:
    raise BadCheckpointError(f"{id_}: {module}: expected {message}", hint=_HINT)
