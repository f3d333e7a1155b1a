"""An opened checkpoint: architecture, tokenizer and weights agree with each other, and nothing is loaded."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from edgephi.chat.template import LONGEST_PARSED
from edgephi.checkpoint.adapter.low_rank import Changes, changed
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.chat_form import CONFIG_FILE, TEMPLATE_FILE, TokenizerPlaces
from edgephi.checkpoint.config import MODEL_TYPES, family_of, image_sources_of, load_architecture
from edgephi.checkpoint.config_keys import read_json_object
from edgephi.checkpoint.images.image_encoder import ImageEncoder
from edgephi.checkpoint.images.preprocessor import PREPROCESSOR_FILE
from edgephi.checkpoint.roles import EXPERTS, ModelTensor
from edgephi.checkpoint.tied_head import as_stored
from edgephi.checkpoint.tokenizer import TokenizerFacts, read_tokenizer_at
from edgephi.checkpoint.weights.foreign import check_original
from edgephi.checkpoint.weights.safetensors import (
    FLOAT_DTYPES,
    ShardHeader,
    TensorEntry,
    read_header,
    read_tensor_rows,
)
from edgephi.checkpoint.weights.source import Source
from edgephi.checkpoint.weights.weight_files import SINGLE_FILE, read_index, weight_files
from edgephi.declared.recipe import AS_CHECKPOINT, ChatSettings
from edgephi.errors import BadCheckpointError

_HINT = "the checkpoint is incomplete or mixed with another one: download it again"
_WIDE_HINT = "save the model in float32 or bfloat16 where it was trained"


@dataclass(frozen=True)
class Checkpoint:
    """A model in a folder. `shards` in order of their names, `tensors` by name: those the model needs.

    `sources` are the rows of them that each tensor of the model is made of, in the order in which the files
    hold them, so that one pass suffices; `image_sources` those of an image encoder. `changes` are what
    adapters add to tensors, by the tensors' names.
    `remarks` say in a few words each what somebody who trained the model would want to know of it.
    """

    id: str
    revision: str
    folder: Path
    architecture: Architecture
    shards: tuple[ShardHeader, ...]
    tensors: Mapping[str, TensorEntry]
    sources: Mapping[ModelTensor, tuple[Source, ...]]
    tokenizer: TokenizerFacts
    changes: Changes = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    image_sources: Mapping[ModelTensor, tuple[Source, ...]] = field(default_factory=dict)

    def copy_tokenizer(self, folder: Path) -> None:
        """Copy the tokenizer's files into `folder`, for engines that read them as they are.

        The chat template becomes that of the bundle, and stands in the configuration only: engines read it in
        one place or another. One that is too long for their parsers stays in the manifest alone. A checkpoint
        without a configuration gets the little that engines ask for, and so does one with ranks, whose own
        names a class of its own that reads those. Raises BadCheckpointError.
        """
        for name, file in self.tokenizer.files.items():
            if name not in (CONFIG_FILE, TEMPLATE_FILE):
                shutil.copyfile(file, folder / name)
        source, template = self.tokenizer.files.get(CONFIG_FILE), self.tokenizer.chat.template
        if source is not None and not self.tokenizer.is_made_of_ranks:
            content = dict(read_json_object(source, where=str(source)))
            if content.get("chat_template") == template and len(template) <= LONGEST_PARSED:
                shutil.copyfile(source, folder / CONFIG_FILE)
                return
        else:
            content = self._plain_configuration()
        content.pop("chat_template", None)
        if len(template) <= LONGEST_PARSED:
            content["chat_template"] = template
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8", errors="surrogatepass")

    def _plain_configuration(self) -> dict[str, Any]:
        """The class that reads a `tokenizer.json` of this kind, and the tokens around its texts."""
        texts = {id_: text for text, id_ in self.tokenizer.special_tokens.items()}
        named = {
            "bos_token": self.architecture.bos_token_id,
            "eos_token": next(iter((*self.architecture.eos_token_ids, *self.tokenizer.stop_token_ids)), None),
            "pad_token": self.architecture.pad_token_id,
        }
        return {
            "tokenizer_class": "GPT2Tokenizer" if self.tokenizer.kind == "byte-level" else "LlamaTokenizer",
            "add_bos_token": False,
            "add_eos_token": False,
            **{role: texts[id_] for role, id_ in named.items() if id_ in texts},
        }


@dataclass(frozen=True)
class CheckpointWeights:
    """The original weights of a checkpoint, for a forward pass that asks for a few rows at a time."""

    checkpoint: Checkpoint

    @property
    def architecture(self) -> Architecture:
        """The shape of the model whose weights these are."""
        return self.checkpoint.architecture

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows `start` to `stop` of a tensor, float32; see `read_rows`."""
        return read_rows(self.checkpoint, tensor, start, stop)


@dataclass(frozen=True)
class CheckpointImageWeights:
    """The original weights of a checkpoint's image encoder, which must be there; see `CheckpointWeights`."""

    checkpoint: Checkpoint

    @property
    def architecture(self) -> ImageEncoder:
        """The shape of the encoder whose weights these are."""
        return image_encoder_of(self.checkpoint)

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows `start` to `stop` of a tensor, float32; see `read_rows`."""
        return read_rows(self.checkpoint, tensor, start, stop)


def image_encoder_of(checkpoint: Checkpoint) -> ImageEncoder:
    """The image encoder of a checkpoint that must have one."""
    encoder = checkpoint.architecture.image_encoder
    if encoder is None:
        raise ValueError(f"{checkpoint.id}: expected a model that sees")
    return encoder


def open_checkpoint(
    folder: Path,
    *,
    id: str,  # noqa: A002 - the field's name
    revision: str,
    chat: ChatSettings = AS_CHECKPOINT,
    places: TokenizerPlaces | None = None,
) -> Checkpoint:
    """Open the checkpoint in `folder` and hold its parts against each other; reads headers only.

    `chat` is how a recipe wants conversations written, where that is not the checkpoint's own way. `places`
    are those of the tokenizer, where they are not all in `folder`.

    Raises NotSupportedError for a model that edgephi cannot build, and BadCheckpointError naming the file
    or tensor that is missing, unexpected or not what the config says.
    """
    if not folder.is_dir():
        raise BadCheckpointError(f"{folder}: expected a checkpoint's folder, found none", hint=_HINT)
    architecture = load_architecture(folder)
    if architecture.image_encoder is not None and not (folder / PREPROCESSOR_FILE).is_file():
        raise BadCheckpointError(
            f"{folder}: {PREPROCESSOR_FILE}: expected this file, by which images are prepared, found none",
            hint="copy it from the model that this one was made from",
        )
    shards = tuple(read_header(folder / name) for name in weight_files(folder))
    found = _stored_tensors(folder, shards)
    check_original(str(folder), found.values())
    stored = as_stored(architecture, found)
    architecture = stored.architecture
    image_sources = image_sources_of(architecture)
    tensors = _matched_tensors(folder, architecture, stored.sources, image_sources, found)
    return Checkpoint(
        id=id,
        revision=revision,
        folder=folder,
        architecture=architecture,
        shards=shards,
        tensors=tensors,
        sources=in_stored_order(stored.sources, shards),
        tokenizer=read_tokenizer_at(places or TokenizerPlaces(folder, folder, folder), architecture, chat),
        remarks=stored.remarks,
        image_sources=in_stored_order(image_sources, shards),
    )


def read_rows(checkpoint: Checkpoint, tensor: ModelTensor, start: int, stop: int) -> npt.NDArray[np.float32]:
    """Rows `start` to `stop` of a matrix, float32 [stop - start, columns]; of a vector, [stop - start].

    Reads those bytes only. Safe from several threads. Raises BadCheckpointError when the file has changed.
    """
    sources = checkpoint.sources.get(tensor) or checkpoint.image_sources[tensor]
    count = sum(len(source.into) for source in sources)
    if not 0 <= start <= stop <= count:
        raise IndexError(f"{tensor}: rows {start} to {stop} of {count}")
    pieces = [(source.tensor, *source.within(start, stop)) for source in sources]
    pieces = [(name, rows, into) for name, rows, into in pieces if rows]
    if len(pieces) == 1:
        name, rows, _ = pieces[0]
        return _stored_rows(checkpoint, name, rows)
    found = np.empty((stop - start, *checkpoint.tensors[sources[0].tensor].shape[1:]), np.float32)
    for name, rows, into in pieces:
        found[into.start - start : into.stop - start : into.step] = _stored_rows(checkpoint, name, rows)
    return found


def _stored_rows(checkpoint: Checkpoint, name: str, rows: range) -> npt.NDArray[np.float32]:
    """Rows of a tensor as a file holds it, with all that adapters change of them."""
    values = read_tensor_rows(checkpoint.tensors[name], rows)
    return changed(values, rows, checkpoint.changes.get(name, ()))


def _stored_tensors(folder: Path, shards: tuple[ShardHeader, ...]) -> dict[str, TensorEntry]:
    """All tensors of the files by their names, which are those that an index gives to them."""
    found: dict[str, TensorEntry] = {}
    for shard in shards:
        for entry in shard.entries:
            if entry.name in found:
                _fail(
                    folder,
                    entry.name,
                    f"one, found it in {found[entry.name].file.name} and {entry.file.name}",
                )
            found[entry.name] = entry
    if len(shards) > 1 or shards[0].file.name != SINGLE_FILE:
        for name, file in read_index(folder).items():
            if name not in found or found[name].file.name != file:
                where = found[name].file.name if name in found else "nowhere"
                _fail(folder, name, f"it in {file} by the index, found it {where}")
    return found


def _matched_tensors(
    folder: Path,
    architecture: Architecture,
    sources: Mapping[ModelTensor, tuple[Source, ...]],
    image_sources: Mapping[ModelTensor, tuple[Source, ...]],
    found: Mapping[str, TensorEntry],
) -> dict[str, TensorEntry]:
    """Those of the tensors that the sources ask for, in their order; no other may be there."""
    _check_names(folder, architecture, sources, found)
    tensors: dict[str, TensorEntry] = {}
    shapes = _stored_shapes(architecture.tensor_shapes(), sources)
    if architecture.image_encoder is not None:
        shapes |= _stored_shapes(architecture.image_encoder.tensor_shapes(), image_sources)
    for name, shape in shapes.items():
        stored = found.get(name)
        if stored is None:
            _fail(folder, name, f"shape {list(shape)} by the config, found no such tensor")
        if stored.shape != shape:
            _fail(folder, name, f"shape {list(shape)} by the config, found {list(stored.shape)}")
        if stored.dtype not in FLOAT_DTYPES:
            hint = _WIDE_HINT if stored.dtype == "F64" else _HINT
            _fail(folder, name, f"one of {', '.join(FLOAT_DTYPES)}, found {stored.dtype}", hint=hint)
        tensors[name] = stored
    for name in found:
        if name not in tensors and not family_of(architecture.model_type).is_known(name, architecture):
            _fail(folder, name, "only tensors of the config's architecture, found this one too")
    return tensors


def _check_names(
    folder: Path,
    architecture: Architecture,
    sources: Mapping[ModelTensor, tuple[Source, ...]],
    found: Mapping[str, TensorEntry],
) -> None:
    """Refuse weights that another model type has other names for, which transformers would not find."""
    own = architecture.model_type
    missing = sorted(_names(sources) - found.keys())
    parts = family_of(own).PARTS
    for other in MODEL_TYPES if missing else ():
        if parts != family_of(other).PARTS:
            continue
        names = _names(family_of(other).sources(architecture))
        if names <= found.keys():
            raise BadCheckpointError(
                f"{folder}: expected the tensors of a {own!r} by the config, found those of a {other!r}",
                hint=f'set "model_type" to "{other}" in config.json, if that is what the model was saved as',
            )
        strange = sorted(names & found.keys() - _names(sources))
        if strange:
            raise BadCheckpointError(
                f"{folder}: expected the tensors of a {own!r} by the config, found {strange[0]} "
                f"as a {other!r} has it, and no {missing[0]}",
                hint="save the model again with the class of transformers that its config names",
            )


def _names(sources: Mapping[ModelTensor, tuple[Source, ...]]) -> set[str]:
    return {source.tensor for own in sources.values() for source in own}


def in_stored_order(
    sources: Mapping[ModelTensor, tuple[Source, ...]], shards: tuple[ShardHeader, ...]
) -> dict[ModelTensor, tuple[Source, ...]]:
    """The sources in the order in which `shards` hold the first of each."""
    entries = (entry for shard in shards for entry in shard.entries)
    place = {entry.name: number for number, entry in enumerate(entries)}
    return dict(sorted(sources.items(), key=lambda item: min(place[each.tensor] for each in item[1])))


def _stored_shapes(
    shapes: Mapping[ModelTensor, tuple[int, ...]], sources: Mapping[ModelTensor, tuple[Source, ...]]
) -> dict[str, tuple[int, ...]]:
    """The shape that each tensor of a checkpoint must have: as many rows as are taken from it."""
    rows: dict[str, int] = {}
    others: dict[str, tuple[int, ...]] = {}
    stacked: dict[str, tuple[int, ...]] = {}
    for tensor, shape in shapes.items():
        for source in sources[tensor]:
            rows[source.tensor] = max(rows.get(source.tensor, 0), source.rows[-1] + 1)
            others[source.tensor] = shape[-1:] if len(shape) > 1 else ()
            if len(shape) > 2 and tensor.role not in EXPERTS:
                stacked[source.tensor] = shape
    return {name: stacked.get(name, (count, *others[name])) for name, count in rows.items()}


def _fail(folder: Path, tensor: str, message: str, *, hint: str = _HINT) -> NoReturn:
    raise BadCheckpointError(f"{folder}: tensor {tensor}: expected {message}", hint=hint)
