"""Writing safetensors (https://huggingface.co/docs/safetensors): a length, JSON, and the tensors' bytes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgephi.export.stream.packed_tensor import align

_DTYPES = {"float16": "F16", "float32": "F32"}


def header(entries: Mapping[str, Mapping[str, Any]], *, made_for: str, alignment: int) -> bytes:
    """All before the tensors' bytes, with blanks at its end so that these begin at a multiple of `alignment`.

    An entry has dtype, shape and data_offsets. `made_for` is a library, by the file's metadata.
    """
    text = json.dumps({"__metadata__": {"format": made_for}, **entries}, separators=(",", ":")).encode()
    size = align(8 + len(text), alignment)
    return (size - 8).to_bytes(8, "little") + text.ljust(size - 8)


def write_safetensors(path: Path, arrays: Mapping[str, NDArray[Any]], *, made_for: str) -> None:
    """Write small arrays, float16 or float32, in their order."""
    entries, offset = {}, 0
    for name, array in arrays.items():
        offsets = [offset, offset + array.nbytes]
        entries[name] = {
            "dtype": _DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": offsets,
        }
        offset = offsets[1]
    with path.open("wb") as file:
        file.write(header(entries, made_for=made_for, alignment=8))
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).data)
