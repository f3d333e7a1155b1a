"""Read the weights of an MLX artifact back, a few rows at a time."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import ModelTensor
from edgephi.checkpoint.weights.safetensors import read_bytes, read_header
from edgephi.engines.mlx_lm import CONFIG_FILE, DATA_FILE
from edgephi.export.mlx.parts import parts_of
from edgephi.export.stream.packed_tensor import row_count
from edgephi.quantize.groups import dequantize
from edgephi.quantize.nibbles import unpack_nibbles


class ArtifactWeights:
    """The weights as the artifact holds them, dequantised a few rows at a time.

    Reads the finished file and `config.json`, not our plan of them. Has `architecture` and `rows`, as the
    reference's forward pass wants.
    """

    def __init__(self, folder: Path, architecture: Architecture) -> None:
        self.architecture = architecture
        self._shapes = architecture.tensor_shapes()
        quantization = json.loads((folder / CONFIG_FILE).read_bytes())["quantization"]
        self._stored = FileTensors(folder / DATA_FILE, quantization)

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of a matrix, float32 [stop - start, columns], or that part of a vector."""
        found = []
        for source in parts_of(tensor, self._shapes[tensor], self.architecture).rows:
            rows, _ = source.within(start, stop)
            if rows:
                found.append(self._stored.rows(source.tensor, rows.start, rows.stop))
        return found[0] if len(found) == 1 else np.concatenate(found)


class FileTensors:
    """The tensors of a file, of which `quantization` says how codes are to be read, as mlx-lm has it."""

    def __init__(self, file: Path, quantization: Mapping[str, Any]) -> None:
        self._entries = {entry.name: entry for entry in read_header(file).entries}
        self._quantization = quantization

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows of a tensor, float32; of a stack's matrices they are numbered through."""
        prefix = name.removesuffix(".weight")
        stored = self._read(name, start, stop)
        if f"{prefix}.scales" not in self._entries:
            return stored.astype(np.float32, copy=False)
        own = self._quantization.get(prefix, self._quantization)
        codes = stored.view(np.uint8)
        if own["bits"] == 4:
            codes = unpack_nibbles(codes)
        scales = self._read(f"{prefix}.scales", start, stop).astype(np.float32, copy=False)
        biases = self._read(f"{prefix}.biases", start, stop).astype(np.float32, copy=False)
        weights = dequantize(codes, scales, 0).reshape(*scales.shape, -1)  # [rows, groups, size]
        weights += biases[:, :, None]
        return weights.reshape(codes.shape)

    def _read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        entry = self._entries[name]
        row_bytes = entry.size // row_count(entry.shape)
        dtype = {"U32": "<u4", "F16": "<f2", "F32": "<f4"}[entry.dtype]
        with entry.file.open("rb", buffering=0) as file:
            offset, size = entry.start + start * row_bytes, (stop - start) * row_bytes
            raw = read_bytes(file.fileno(), offset, size, file=entry.file)
        columns = entry.shape[-1:] if len(entry.shape) > 1 else ()
        return raw.view(dtype).reshape(stop - start, *columns)
