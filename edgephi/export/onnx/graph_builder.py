"""What a graph is put together with: its nodes, and the tensors that lie in the data file.

Weights stay quantised: `MatMulNBits` for matrices, `GatherBlockQuantized` for the embedding. Operators of the
domain com.microsoft are described in onnxruntime's docs/ContribOperators.md; the layout of `MatMulNBits`
weights is [rows, groups, group bytes].
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgephi.checkpoint.roles import EMBEDDING, HEAD, ModelTensor
from edgephi.engines.onnxruntime_genai import DATA_FILE
from edgephi.export.onnx.layout import EMBEDDING_ZERO_POINTS, OnnxLayout
from edgephi.export.stream.packed_tensor import PackedTensor, Region
from edgephi.export.tensor_names import tensor_name
from edgephi.quantize.scheme import Scheme

CONTRIB_DOMAIN = "com.microsoft"
_CONTRIB_OPERATORS = frozenset(
    {
        "FusedMatMul",
        "GatherBlockQuantized",
        "GroupQueryAttention",
        "MatMulNBits",
        "MultiHeadAttention",
        "QMoE",
        "QuickGelu",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "SparseAttention",
    }
)
_OPSET = 21
_IR_VERSION = 10
_BIAS_INPUT = 5  # of MatMulNBits


class GraphBuilder:
    """Collects nodes and initializers; each method returns the name of the value it made.

    Activations have the type of the layout's floats. `accuracy_level` is that of products. The tensors lie in
    `data_file`.
    """

    def __init__(self, layout: OnnxLayout, accuracy_level: int, *, data_file: str = DATA_FILE) -> None:
        self._layout = layout
        self._data_file = data_file
        self.accuracy_level = accuracy_level
        self.numpy_type = layout.float_type
        self.float_type: int = helper.np_dtype_to_tensor_dtype(np.dtype(layout.float_type))
        self.nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}

    @property
    def initializers(self) -> list[onnx.TensorProto]:
        """All constants, each once."""
        return list(self._initializers.values())

    def add(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """A node whose outputs have names already."""
        domain = CONTRIB_DOMAIN if operator in _CONTRIB_OPERATORS else ""
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, outputs, name, domain=domain, **attributes))

    def node(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """A node with one output, which gets a name of its own."""
        output = f"{operator}_{len(self.nodes)}_output"
        self.add(operator, inputs, [output], **attributes)
        return output

    def integers(self, name: str, values: int | list[int]) -> str:
        """A constant of int64; the same name is the same constant."""
        return self._constant(name, np.array(values, dtype=np.int64))

    def number(self, name: str, value: float, *, like: int | None = None) -> str:
        """A constant number of the type `like`, of the graph's floats where that is None."""
        kind = helper.tensor_dtype_to_np_dtype(like or self.float_type)
        return self._constant(name, np.array(value, dtype=kind))

    def table(self, name: str) -> str:
        """A lookup table of the layout."""
        region, table = next((r, t) for n, r, t in self._layout.tables if n == name)
        kind = helper.np_dtype_to_tensor_dtype(table.dtype)
        return self._external(name, kind, table.shape, region)

    def plain(self, tensor: ModelTensor, shape: tuple[int, ...] | None = None) -> str:
        """A tensor that is not quantised, in its own shape or in another one of as many numbers."""
        packed = self._layout.tensors[tensor]
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(packed.plain_dtype))
        return self._external(packed.name, kind, shape or packed.shape, packed.regions[0])

    def embedding(self, matrix: ModelTensor, indices: str) -> str:
        """The rows of a quantised matrix at `indices`."""
        tensor = self._layout.tensors[matrix]
        name, scheme = tensor.name, scheme_of(tensor)
        rows, columns = tensor.shape
        inputs = [
            self._external(
                f"{name}.codes", TensorProto.UINT8, (rows, columns * scheme.bits // 8), tensor.regions[0]
            ),
            indices,
            *self._scales_and_zeros(name, tensor, scheme),
        ]
        if any(table == EMBEDDING_ZERO_POINTS for table, _, _ in self._layout.tables):
            inputs.append(self.table(EMBEDDING_ZERO_POINTS))
        return self.node(
            "GatherBlockQuantized",
            inputs,
            bits=scheme.bits,
            block_size=scheme.group_size,
            gather_axis=0,
            quantize_axis=1,
        )

    def matmul(
        self,
        matrix: ModelTensor,
        activations: str,
        *,
        bias: ModelTensor | None = None,
        exact: bool = False,
        output: str | None = None,
    ) -> str:
        """`activations` [..., columns] times the transpose of a matrix [rows, columns], and `bias`.

        An `exact` product rounds no activations, whatever the accuracy level of the others is.
        """
        tensor = self._layout.tensors[matrix]
        if tensor.scheme is None:
            return self._plain_product(matrix, activations, bias)
        scheme = tensor.scheme
        rows, columns = tensor.shape
        groups = columns // scheme.group_size
        # A tied head reads the embedding's bytes under a second name, in the shape that this operator wants.
        prefix = tensor_name(HEAD if matrix == EMBEDDING else matrix)
        codes = (rows, groups, scheme.group_size * scheme.bits // 8)
        inputs = [
            activations,
            self._external(f"{prefix}.codes", TensorProto.UINT8, codes, tensor.regions[0]),
            *self._scales_and_zeros(prefix, tensor, scheme),
        ]
        if bias is not None:
            inputs += [""] * (_BIAS_INPUT - len(inputs)) + [self.plain(bias)]
        output = output or f"{prefix}.product"
        self.add(
            "MatMulNBits",
            inputs,
            [output],
            N=rows,
            K=columns,
            bits=scheme.bits,
            block_size=scheme.group_size,
            accuracy_level=0 if exact else self.accuracy_level,
        )
        return output

    def _plain_product(self, matrix: ModelTensor, activations: str, bias: ModelTensor | None) -> str:
        """The product with a matrix that is not quantised, whose numbers become the graph's as it runs."""
        weights = self.plain(matrix)
        if self._layout.tensors[matrix].plain_dtype is not self.numpy_type:
            # Its own shape, but known only when the activations are: else all matrices of a graph would be
            # converted before the first is needed, and lie in memory side by side.
            columns = self.node("Shape", [activations], start=-1)
            shape = self.node("Concat", [self.integers("same_rows", [0]), columns], axis=0)
            weights = self.node("Reshape", [weights, shape])
            weights = self.node("Cast", [weights], to=self.float_type)
        product = self.node("FusedMatMul", [activations, weights], transB=1)
        return product if bias is None else self.node("Add", [product, self.plain(bias)])

    def stack(self, tensor: ModelTensor) -> tuple[Scheme, list[str]]:
        """Codes, scales and, when there are any, zero points of a quantised [count, rows, columns]."""
        packed = self._layout.tensors[tensor]
        scheme = scheme_of(packed)
        *outer, columns = packed.shape
        codes = (*outer, columns * scheme.bits // 8)
        name = self._external(f"{packed.name}.codes", TensorProto.UINT8, codes, packed.regions[0])
        return scheme, [name, *self._scales_and_zeros(packed.name, packed, scheme)]

    def _scales_and_zeros(self, prefix: str, tensor: PackedTensor, scheme: Scheme) -> list[str]:
        *outer, columns = tensor.shape
        groups = columns // scheme.group_size
        names = [self._external(f"{prefix}.scales", self.float_type, (*outer, groups), tensor.regions[1])]
        if not scheme.symmetric:
            packed = (*outer, -(-groups * scheme.bits // 8))
            region = tensor.regions[2]
            names.append(self._external(f"{prefix}.zero_points", TensorProto.UINT8, packed, region))
        return names

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def _external(self, name: str, kind: int, shape: tuple[int, ...], region: Region) -> str:
        reference = onnx.TensorProto(name=name, data_type=kind, dims=shape)
        reference.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self._data_file), ("offset", region.offset), ("length", region.size)):
            reference.external_data.add(key=key, value=str(value))
        self._initializers[name] = reference
        return name


def scheme_of(tensor: PackedTensor) -> Scheme:
    """The scheme of a tensor that must be quantised."""
    if tensor.scheme is None:
        raise AssertionError(f"{tensor.name} is not quantised")
    return tensor.scheme


def as_model(
    graph: GraphBuilder, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
) -> onnx.ModelProto:
    """What a builder has collected, with its ends."""
    return helper.make_model(
        helper.make_graph(graph.nodes, "phi3", inputs, outputs, graph.initializers),
        opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(CONTRIB_DOMAIN, 1)],
        producer_name="edgephi",
        ir_version=_IR_VERSION,
    )


def value(name: str, kind: int, shape: list[str | int]) -> onnx.ValueInfoProto:
    """An input or output of a graph."""
    return helper.make_tensor_value_info(name, kind, shape)
