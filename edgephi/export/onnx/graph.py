"""The decoder of a Phi-3 as an ONNX graph for onnxruntime-genai.

For each layer RMSNorm, one fused projection, `GroupQueryAttention` with the rotary embedding inside, and a
SwiGLU feed-forward. Weights stay quantised: `MatMulNBits` for the projections, `GatherBlockQuantized` for the
embedding. Operators of the domain com.microsoft are described in onnxruntime's docs/ContribOperators.md; the
layout of `MatMulNBits` weights is [rows, groups, group bytes].

Phi-3's sliding window is a local attention window over a full cache, not a cache that slides.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import EMBEDDING, FINAL_NORM, HEAD, ModelTensor, Role
from edgephi.engines.onnxruntime_genai import DATA_FILE
from edgephi.export.onnx.layout import EMBEDDING_ZERO_POINTS, OnnxLayout
from edgephi.export.stream.packed_tensor import PackedTensor, Region
from edgephi.export.tensor_names import node_name, tensor_name
from edgephi.quantize.scheme import Scheme

_CONTRIB = "com.microsoft"
_OPSET = 21
_IR_VERSION = 10


def build_graph(
    architecture: Architecture, layout: OnnxLayout, context: int, accuracy_level: int
) -> onnx.ModelProto:
    """The decoder as a graph whose weights are references into the data file.

    Activations, KV cache and logits have the type of the layout's floats.
    """
    graph = _Graph(layout, accuracy_level)
    floats = graph.float_type
    attention = architecture.attention
    cache_shape: list[str | int] = ["batch", attention.kv_heads, "past_length", attention.head_size]
    inputs = [
        _value("input_ids", TensorProto.INT64, ["batch", "length"]),
        _value("attention_mask", TensorProto.INT64, ["batch", "total_length"]),
    ]
    outputs = [_value("logits", floats, ["batch", "length", architecture.vocabulary_size])]
    for layer in range(architecture.layers):
        for part in ("key", "value"):
            inputs.append(_value(f"past_key_values.{layer}.{part}", floats, cache_shape))
            present: list[str | int] = [*cache_shape[:2], "total_length", cache_shape[3]]
            outputs.append(_value(f"present.{layer}.{part}", floats, present))

    # Lengths as GroupQueryAttention wants them: index of each sequence's last token, and the longest total.
    mask_sum = graph.node("ReduceSum", ["attention_mask", graph.integers("axis_1", [1])], keepdims=0)
    last = graph.node("Sub", [mask_sum, graph.integers("one", [1])])
    sequence_ends = graph.node("Cast", [last], to=TensorProto.INT32)  # [batch]
    mask_shape = graph.node("Shape", ["attention_mask"])
    total = graph.node("Gather", [mask_shape, graph.integers("index_1", 1)], axis=0)
    total_length = graph.node("Cast", [total], to=TensorProto.INT32)  # scalar

    cos, sin = graph.table("cos_cache"), graph.table("sin_cache")
    if attention.rotary.uses_long_factors(context):
        # One length decides for all positions: index 0 holds the short factors' table, 1 the long ones'.
        limit = graph.integers("original_context", attention.rotary.original_context)
        chosen = graph.node("Cast", [graph.node("Greater", [total, limit])], to=TensorProto.INT64)
        cos = graph.node("Gather", [cos, chosen], axis=0)  # [context, rotary size / 2]
        sin = graph.node("Gather", [sin, chosen], axis=0)

    hidden = graph.embedding(EMBEDDING, "input_ids")  # [batch, length, hidden]
    epsilon = architecture.norm.epsilon
    normed = graph.node(
        "SimplifiedLayerNormalization",
        [hidden, graph.vector(ModelTensor(Role.ATTENTION_NORM, 0))],
        axis=-1,
        epsilon=epsilon,
        stash_type=1,
    )
    for layer in range(architecture.layers):
        # [batch, length, (heads + 2 kv_heads) * head_size]
        qkv = graph.matmul(ModelTensor(Role.QUERY_KEY_VALUE, layer), normed)
        past = [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"]
        window = attention.window
        attended = node_name(layer, "attention")  # [batch, length, heads * head_size]
        graph.add(
            "GroupQueryAttention",
            [qkv, "", "", *past, sequence_ends, total_length, cos, sin],
            [attended, f"present.{layer}.key", f"present.{layer}.value"],
            num_heads=attention.heads,
            kv_num_heads=attention.kv_heads,
            scale=attention.head_size**-0.5,
            do_rotary=1,
            rotary_interleaved=0,
            # A window as wide as the context is no window, and the kernel is quicker without.
            local_window_size=window if window is not None and window < context else -1,
        )
        projected = graph.matmul(ModelTensor(Role.ATTENTION_OUTPUT, layer), attended)
        normed, hidden = graph.add_and_norm(
            hidden, projected, ModelTensor(Role.FEED_FORWARD_NORM, layer), epsilon
        )
        gate_up = graph.matmul(ModelTensor(Role.GATE_UP, layer), normed)  # [batch, length, 2 ffn]
        gate, up = node_name(layer, "gate"), node_name(layer, "up")
        graph.add("Split", [gate_up], [gate, up], axis=-1, num_outputs=2)
        activated = graph.node("Mul", [gate, graph.node("Sigmoid", [gate])])  # SiLU
        fed = graph.matmul(ModelTensor(Role.DOWN, layer), graph.node("Mul", [activated, up]))
        following = ModelTensor(Role.ATTENTION_NORM, layer + 1)
        if layer + 1 == architecture.layers:
            following = FINAL_NORM
        normed, hidden = graph.add_and_norm(hidden, fed, following, epsilon)
    graph.matmul(architecture.head, normed, output="logits")

    return helper.make_model(
        helper.make_graph(graph.nodes, "phi3", inputs, outputs, graph.initializers),
        opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIB, 1)],
        producer_name="edgephi",
        ir_version=_IR_VERSION,
    )


def _value(name: str, kind: int, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


class _Graph:
    """Collects nodes and initializers; each method returns the name of the value it made."""

    _CONTRIB_OPERATORS = frozenset(
        {"GatherBlockQuantized", "GroupQueryAttention", "MatMulNBits", "SkipSimplifiedLayerNormalization"}
    )

    def __init__(self, layout: OnnxLayout, accuracy_level: int) -> None:
        self._layout = layout
        self._accuracy_level = accuracy_level
        self.float_type: int = helper.np_dtype_to_tensor_dtype(np.dtype(layout.float_type))
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        domain = _CONTRIB if operator in self._CONTRIB_OPERATORS else ""
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, outputs, name, domain=domain, **attributes))

    def node(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        output = f"{operator}_{len(self.nodes)}_output"
        self.add(operator, inputs, [output], **attributes)
        return output

    def integers(self, name: str, values: int | list[int]) -> str:
        array = np.array(values, dtype=np.int64)
        self.initializers.append(onnx.numpy_helper.from_array(array, name))
        return name

    def table(self, name: str) -> str:
        region, table = next((r, t) for n, r, t in self._layout.tables if n == name)
        kind = helper.np_dtype_to_tensor_dtype(table.dtype)
        return self._external(name, kind, table.shape, region)

    def vector(self, norm: ModelTensor) -> str:
        tensor = self._layout.tensors[norm]
        return self._external(tensor.name, self.float_type, tensor.shape, tensor.regions[0])

    def embedding(self, matrix: ModelTensor, indices: str) -> str:
        tensor = self._layout.tensors[matrix]
        name, scheme = tensor.name, _scheme_of(tensor)
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

    def matmul(self, matrix: ModelTensor, activations: str, *, output: str | None = None) -> str:
        """`activations` [..., columns] times the transpose of a quantised matrix [rows, columns]."""
        tensor = self._layout.tensors[matrix]
        scheme = _scheme_of(tensor)
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
        output = output or f"{prefix}.product"
        self.add(
            "MatMulNBits",
            inputs,
            [output],
            N=rows,
            K=columns,
            bits=scheme.bits,
            block_size=scheme.group_size,
            accuracy_level=self._accuracy_level,
        )
        return output

    def add_and_norm(self, hidden: str, addend: str, norm: ModelTensor, epsilon: float) -> tuple[str, str]:
        """RMSNorm of the sum, and the sum itself."""
        normed, total = f"{tensor_name(norm)}.normed", f"{tensor_name(norm)}.sum"
        self.add(
            "SkipSimplifiedLayerNormalization",
            [hidden, addend, self.vector(norm)],
            [normed, "", "", total],
            epsilon=epsilon,
        )
        return normed, total

    def _scales_and_zeros(self, prefix: str, tensor: PackedTensor, scheme: Scheme) -> list[str]:
        rows, columns = tensor.shape
        groups = columns // scheme.group_size
        names = [self._external(f"{prefix}.scales", self.float_type, (rows, groups), tensor.regions[1])]
        if not scheme.symmetric:
            packed = (rows, -(-groups * scheme.bits // 8))
            region = tensor.regions[2]
            names.append(self._external(f"{prefix}.zero_points", TensorProto.UINT8, packed, region))
        return names

    def _external(self, name: str, kind: int, shape: tuple[int, ...], region: Region) -> str:
        reference = onnx.TensorProto(name=name, data_type=kind, dims=shape)
        reference.data_location = TensorProto.EXTERNAL
        for key, value in (("location", DATA_FILE), ("offset", region.offset), ("length", region.size)):
            reference.external_data.add(key=key, value=str(value))
        self.initializers.append(reference)
        return name


def _scheme_of(tensor: PackedTensor) -> Scheme:
    if tensor.scheme is None:
        raise AssertionError(f"{tensor.name} is not quantised")
    return tensor.scheme
