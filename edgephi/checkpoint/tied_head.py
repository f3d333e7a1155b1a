"""Embedding and head where a config says that they are one matrix, and the files may say otherwise.

What transformers makes of it is what the model was trained and tested with: two matrices that are stored and
differ stay two, and one that is stored alone is both, whichever it is.

Source: `tie_weights` in `modeling_utils.py` of transformers 5.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.config import family_of
from edgephi.checkpoint.roles import EMBEDDING, HEAD, ModelTensor
from edgephi.checkpoint.weights.safetensors import FLOAT_DTYPES, TensorEntry, read_tensor_rows
from edgephi.checkpoint.weights.source import Source

_BLOCK_WEIGHTS = 1 << 20
UNTIED = "its config ties head and embedding, its weights do not: two matrices, as transformers reads them"


@dataclass(frozen=True)
class Stored:
    """The architecture that a checkpoint's files hold, and where in them each tensor is."""

    architecture: Architecture
    sources: Mapping[ModelTensor, tuple[Source, ...]]
    remarks: tuple[str, ...] = ()


def as_stored(architecture: Architecture, entries: Mapping[str, TensorEntry]) -> Stored:
    """What the config describes, with head and embedding as the tensors of the files say."""
    family = family_of(architecture.model_type)
    declared = Stored(architecture, family.sources(architecture))
    if not architecture.tied_embeddings:
        return declared
    apart = replace(architecture, tied_embeddings=False)
    sources = family.sources(apart)
    embedding, head = (entries.get(sources[each][0].tensor) for each in (EMBEDDING, HEAD))
    if head is None or (embedding is not None and _same(embedding, head)):
        return declared
    if embedding is None:
        return replace(declared, sources={**declared.sources, EMBEDDING: sources[HEAD]})
    return Stored(apart, sources, (UNTIED,))


def _same(one: TensorEntry, other: TensorEntry) -> bool:
    """Whether two stored matrices hold the same numbers; reads as far as they do."""
    readable = one.dtype in FLOAT_DTYPES and other.dtype in FLOAT_DTYPES
    if one.shape != other.shape or not readable or not one.shape:
        return False
    count, columns = one.shape[0], one.size // max(1, one.shape[0])
    step = max(1, _BLOCK_WEIGHTS // max(1, columns))
    for start in range(0, count, step):
        rows = range(start, min(start + step, count))
        if not np.array_equal(read_tensor_rows(one, rows), read_tensor_rows(other, rows)):
            return False
    return True
