"""What the graphs for the HTP are written with: quantised values, norms, and matrices of a file of weights.

Each value that the HTP keeps as integers passes `QuantizeLinear` and `DequantizeLinear`; the compiler fuses
these with the operator between them. Matrices are 1x1 convolutions, whose 4-bit weights have their zero
points written down: without them the compiler's result is wrong, see docs/targets/qnn.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import ModelTensor
from edgephi.export.qnn.activations import Encoding, unsigned
from edgephi.export.qnn.layout import QnnLayout, scales_per_row
from edgephi.export.stream.packed_tensor import Region
from edgephi.export.tensor_names import tensor_name
from edgephi.reference.activations import FINAL_NORM_INPUT

DATA_FILE = "weights.data"
"""Beside the graphs."""

_OPSET = 21
_IR_VERSION = 10


@dataclass(frozen=True)
class QnnModel:
    """What all graphs of a model have in common: `norms` are the vectors of its RMSNorms."""

    architecture: Architecture
    layout: QnnLayout
    norms: Mapping[ModelTensor, NDArray[np.float32]]
    encodings: Mapping[str, Encoding]


class GraphWriter:
    """Collects nodes and initializers; methods return the name of the value that they made."""

    def __init__(self, model: QnnModel) -> None:
        self.architecture = model.architecture
        self.encodings = model.encodings
        self._norms = model.norms
        self._layout = model.layout
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._names: dict[Encoding, str] = {}

    def node(self, operator: str, inputs: list[str], *, output: str | None = None, **attributes: Any) -> str:
        """Add an operator with one output."""
        name = f"{operator}_{len(self._nodes)}"
        output = output or f"{name}_output"
        self._nodes.append(helper.make_node(operator, inputs, [output], name, **attributes))
        return output

    def constant(self, array: NDArray[Any] | np.generic) -> str:
        """A value that is known."""
        name = f"constant_{len(self._initializers)}"
        self._initializers[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def quantized(self, value: str, name: str, *, numbers: str | None = None) -> str:
        """`value` as the encoding of activation `name` makes it; `numbers` names the integers themselves."""
        return self.fixed(value, self.encodings[name], name=name, numbers=numbers)

    def fixed(
        self, value: str, encoding: Encoding, *, name: str | None = None, numbers: str | None = None
    ) -> str:
        """`value` as an encoding makes it; activation `name` is what the encoding is kept for."""
        parameters = self._parameters(encoding, name)
        integers = self.node("QuantizeLinear", [value, *parameters], output=numbers)
        return self.node("DequantizeLinear", [integers, *parameters])

    def encoded(self, value: str, name: str, *, output: str) -> str:
        """The integers of `value`."""
        return self.node(
            "QuantizeLinear", [value, *self._parameters(self.encodings[name], name)], output=output
        )

    def decoded(self, integers: str, encoding: Encoding) -> str:
        """The numbers that integers stand for."""
        return self.node("DequantizeLinear", [integers, *self._parameters(encoding, None)])

    def residual(self, value: str, name: str) -> str:
        """The residual stream: float16 inside the HTP, or integers where it has no float16."""
        return self.quantized(value, name) if name in self.encodings else value

    def moved(self, operator: str, value: str, name: str, **attributes: Any) -> str:
        """An operator that moves numbers and changes none."""
        return self.quantized(self.node(operator, [value], **attributes), name)

    def reshape(self, value: str, shape: list[int]) -> str:
        """`value` in another shape, not quantised again."""
        return self.node("Reshape", [value, self.constant(np.array(shape, np.int64))])

    def reshaped(self, value: str, name: str, shape: list[int]) -> str:
        """`value`, which is activation `name`, in another shape."""
        return self.quantized(self.reshape(value, shape), name)

    def slice(self, value: str, start: int, stop: int) -> str:
        """Numbers `start` to `stop` of the last of four dimensions."""
        bounds = [self.constant(np.array([each], np.int64)) for each in (start, stop, 3)]
        return self.node("Slice", [value, *bounds])

    def sliced(self, value: str, name: str, start: int, stop: int) -> str:
        """As `slice`, of activation `name`."""
        return self.quantized(self.slice(value, start, stop), name)

    def norm(self, value: str, tensor: ModelTensor, name: str, epsilon: float) -> str:
        """RMSNorm of [..., H], quantised: activation `name`."""
        weight, vector = tensor_name(tensor), self._norms[tensor]
        scale = weight
        if FINAL_NORM_INPUT in self.encodings:  # an integer residual stream: integers throughout
            encoding = unsigned(float(vector.min()), float(vector.max()))
            self._initializers[weight] = numpy_helper.from_array(encoding.numbers(vector), weight)
            scale = self.node("DequantizeLinear", [weight, *self._parameters(encoding, weight)])
        else:
            self._initializers[weight] = numpy_helper.from_array(vector, weight)
        normed = self.node("SimplifiedLayerNormalization", [value, scale], axis=-1, epsilon=epsilon)
        return self.quantized(normed, name)

    def convolution(self, value: str, matrix: ModelTensor, rows: range, *, name: str | None = None) -> str:
        """Rows of a quantised matrix times [1, features, 1, N], a 1x1 convolution: [1, rows, 1, N].

        The matrix goes by `name` in the graph, or its own.
        """
        tensor = self._layout.tensors[matrix]
        scheme = tensor.scheme
        if scheme is None:
            raise AssertionError(f"{matrix} is not quantised")
        whole = tensor.shape[0]
        columns = tensor.shape[1]
        per_row = scales_per_row(columns, scheme)
        count = len(rows)
        codes, scales = (
            Region(region.offset + region.size // whole * rows.start, region.size // whole * count)
            for region in tensor.regions
        )
        name = name or tensor.name
        if count != whole:
            name = f"{name}[{rows.start}:{rows.stop}]"
        kind = TensorProto.INT4 if scheme.bits == 4 else TensorProto.INT8
        blocks = (count, per_row, 1, 1) if scheme.bits == 4 else (count,)
        axes: dict[str, Any] = {"axis": 0}
        if scheme.bits == 4:
            axes = {"axis": 1, "block_size": columns // per_row}
        zeros = Region(self._layout.zeros.offset, -(-count * per_row * scheme.bits // 8))
        kernel = self.node(
            "DequantizeLinear",
            [
                self._external(name, kind, (count, columns, 1, 1), codes),
                self._external(f"{name}.scales", TensorProto.FLOAT, blocks, scales),
                self._external(f"{name}.zero_points", kind, blocks, zeros),
            ],
            **axes,
        )
        return self.node("Conv", [value, kernel], kernel_shape=[1, 1])

    def rename(self, value: str, output: str) -> None:
        """Give the last value that was made another name."""
        self._nodes[-1].output[0] = output
        if value == output or any(value in node.input for node in self._nodes):
            raise AssertionError(f"{value} is used already")

    def model(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """All that was added, as a model."""
        graph = helper.make_graph(self._nodes, name, inputs, outputs, list(self._initializers.values()))
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET)],
            producer_name="edgephi",
            ir_version=_IR_VERSION,
        )

    def _parameters(self, encoding: Encoding, name: str | None) -> list[str]:
        """Scale and zero point of an encoding, under the name of what it is kept for."""
        if name is None:
            name = self._names.setdefault(encoding, f"encoding_{len(self._names)}")
        scale, zero_point = f"{name}.scale", f"{name}.zero_point"
        if scale not in self._initializers:
            kind = np.dtype(encoding.kind).type
            self._initializers[scale] = numpy_helper.from_array(np.array(encoding.scale, np.float32), scale)
            number = np.array(encoding.zero_point, kind)
            self._initializers[zero_point] = numpy_helper.from_array(number, zero_point)
        return [scale, zero_point]

    def _external(self, name: str, kind: int, shape: tuple[int, ...], region: Region) -> str:
        if name not in self._initializers:
            reference = onnx.TensorProto(name=name, data_type=kind, dims=shape)
            reference.data_location = TensorProto.EXTERNAL
            for key, value in (("location", DATA_FILE), ("offset", region.offset), ("length", region.size)):
                reference.external_data.add(key=key, value=str(value))
            self._initializers[name] = reference
        return name
