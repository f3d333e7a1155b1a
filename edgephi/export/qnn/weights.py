"""What a finished QNN artifact computes with: its weights, and how its graphs round activations."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgephi.bundle.artifact.qnn_artifact import read_artifact
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import EMBEDDING, ModelTensor
from edgephi.engines.qnn import GRAPHS_FOLDER
from edgephi.export.qnn.activations import Encoding, residual_names
from edgephi.export.tensor_names import tensor_name
from edgephi.quantize.groups import dequantize
from edgephi.quantize.nibbles import unpack_nibbles


class ArtifactWeights:
    """The weights as the artifact holds them, and its rounding of activations.

    Reads the finished graphs, not our plan of them, so that the reference computes with what the compiler
    reads. Embedding and head are two matrices, whatever the checkpoint says.
    """

    def __init__(self, folder: Path, architecture: Architecture) -> None:
        self.architecture = replace(architecture, tied_embeddings=False)
        self._folder = folder
        artifact = read_artifact(folder)
        self._embedding = artifact.embedding
        self._tensors: dict[str, onnx.TensorProto] = {}
        for name in [*(part.decode.graph for part in artifact.parts), artifact.head.graph]:
            graph = onnx.load(folder / name, load_external_data=False).graph
            self._tensors.update((tensor.name, tensor) for tensor in graph.initializer)
        self._encodings = {
            name.removesuffix(".scale"): self._encoding(name.removesuffix(".scale"))
            for name in self._tensors
            if name.endswith(".scale")
        }
        self._floats = {name for name in residual_names(architecture) if name not in self._encodings}
        self._runs = self._rows_of_tensors()

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of a matrix, float32 [stop - start, columns], or that part of a vector."""
        if tensor == EMBEDDING:
            return self._embedding_rows(start, stop)
        name = tensor_name(tensor)
        if name not in self._runs:
            return self._vector(name)[start:stop]
        blocks = [
            self._matrix_rows(stored, max(start, first) - first, min(stop, last) - first)
            for stored, first, last in self._runs[name]
            if first < stop and start < last
        ]
        return np.concatenate(blocks)

    def activation(self, name: str, values: NDArray[np.float32]) -> None:
        """Round `values` as the artifact's graphs do."""
        if name in self._floats:
            values[...] = values.astype(np.float16)
        elif name in self._encodings:
            self._encodings[name].round(values)

    def _encoding(self, name: str) -> Encoding:
        scale = numpy_helper.to_array(self._tensors[f"{name}.scale"])
        zero_point = numpy_helper.to_array(self._tensors[f"{name}.zero_point"])
        return Encoding(str(zero_point.dtype), float(scale), int(zero_point))

    def _rows_of_tensors(self) -> dict[str, list[tuple[str, int, int]]]:
        """For each matrix the tensors that hold runs of its rows: (tensor, first row, one past the last)."""
        runs: dict[str, list[tuple[str, int, int]]] = {}
        for scales in self._tensors:
            if not scales.endswith(".scales"):
                continue
            tensor = scales.removesuffix(".scales")
            matrix, _, span = tensor.partition("[")
            first, last = 0, int(self._tensors[tensor].dims[0])
            if span:
                first, last = (int(edge) for edge in span.rstrip("]").split(":"))
            runs.setdefault(matrix, []).append((tensor, first, last))
        return {matrix: sorted(spans, key=lambda span: span[1]) for matrix, spans in runs.items()}

    def _vector(self, name: str) -> NDArray[np.float32]:
        stored: NDArray[Any] = numpy_helper.to_array(self._tensors[name])
        if name not in self._encodings:
            return stored
        encoding = self._encodings[name]
        shifted = stored.astype(np.float32) - np.float32(encoding.zero_point)
        return shifted * np.float32(encoding.scale)

    def _matrix_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        tensor = self._tensors[name]
        columns = int(tensor.dims[1])
        bits = 4 if tensor.data_type == onnx.TensorProto.INT4 else 8
        count = stop - start
        stored = self._external(name, np.uint8, start, count, columns * bits // 8)
        per_row = int(np.prod(self._tensors[f"{name}.scales"].dims[1:], dtype=np.int64))
        scales = self._external(f"{name}.scales", np.float32, start, count, per_row)
        codes = unpack_nibbles(stored) if bits == 4 else stored
        middle = 1 << (bits - 1)
        return dequantize(codes ^ np.uint8(middle), scales, middle)

    def _external(self, name: str, kind: Any, start: int, count: int, per_row: int) -> NDArray[Any]:
        where = {entry.key: entry.value for entry in self._tensors[name].external_data}
        offset = int(where["offset"]) + start * per_row * np.dtype(kind).itemsize
        with (self._folder / GRAPHS_FOLDER / where["location"]).open("rb") as data:
            return np.fromfile(data, kind, count * per_row, offset=offset).reshape(count, per_row)

    def _embedding_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        described, columns, count = self._embedding, self.architecture.hidden_size, stop - start
        bits, groups = described.bits, columns // described.group_size
        row_bytes = columns * bits // 8
        with (self._folder / described.file).open("rb") as data:
            data.seek(described.codes_offset + start * row_bytes)
            stored = np.fromfile(data, np.uint8, count * row_bytes).reshape(count, row_bytes)
            data.seek(described.scales_offset + start * groups * 2)
            scales = np.fromfile(data, np.float16, count * groups).reshape(count, groups)
        return dequantize(unpack_nibbles(stored) if bits == 4 else stored, scales, 1 << (bits - 1))
