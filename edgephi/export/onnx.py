"""ONNX for onnxruntime-genai: the decoder graph, its external data, and `genai_config.json`.

The graph is ours: for each layer RMSNorm, one fused projection, `GroupQueryAttention` with the rotary
embedding inside, and a SwiGLU feed-forward. Weights stay quantised: `MatMulNBits` for the projections,
`GatherBlockQuantized` for the embedding. Operators of the domain com.microsoft are described in
onnxruntime's docs/ContribOperators.md; the layout of `MatMulNBits` weights is [rows, groups, group bytes].

Phi-3's sliding window is a local attention window over a full cache, not a cache that slides.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.export.engines import ContextLimit, Footprint
from edgephi.export.stream import PackedTensor, Region, StreamReport, align, place, stream_tensors
from edgephi.quantize.groups import Groups, dequantize
from edgephi.quantize.nibbles import pack_nibbles, unpack_nibbles
from edgephi.quantize.scheme import Scheme
from edgephi.target import Target

GRAPH_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
CONFIG_FILE = "genai_config.json"

_CONTRIB = "com.microsoft"
_OPSET = 21
_IR_VERSION = 10
_EMBEDDING = "model.embed_tokens.weight"
_ENGINE_SWITCHES_AT = 4096  # tokens; fixed in the engine for models of type "phi3"

PREFILL_TOKENS = 512
"""Prompt tokens that the configuration lets the engine compute at once."""


@dataclass(frozen=True)
class Layout:
    """Where every tensor and lookup table lies in the data file. `tables`: name, region, array."""

    tensors: dict[str, PackedTensor]
    tables: tuple[tuple[str, Region, NDArray[np.float32]], ...]
    size: int


def region_sizes(shape: tuple[int, ...], scheme: Scheme | None) -> tuple[int, ...]:
    """Bytes of a tensor's regions: codes, float32 scales and, if asymmetric, zero points."""
    if scheme is None:
        return (int(np.prod(shape)) * 4,)
    rows, columns = shape
    groups = columns // scheme.group_size
    sizes = (rows * columns * scheme.bits // 8, rows * groups * 4)
    return sizes if scheme.symmetric else (*sizes, rows * -(-groups * scheme.bits // 8))


def pack(groups: Groups, scheme: Scheme) -> tuple[NDArray[np.generic], ...]:
    """The regions of a block of rows, as `region_sizes` counts them."""
    codes = groups.codes if scheme.bits == 8 else pack_nibbles(groups.codes)
    # The CPU kernels want scales in the type of their activations; the values are float16's all the same.
    scales = groups.scales.astype(np.float32)
    if groups.zero_points is None:
        return codes, scales
    zero_points = groups.zero_points
    if scheme.bits == 4:
        if zero_points.shape[1] % 2:
            zero_points = np.pad(zero_points, ((0, 0), (0, 1)))
        zero_points = pack_nibbles(zero_points)
    return codes, scales, zero_points


def lay_out(
    names: Iterable[str],
    architecture: Architecture,
    schemes: Mapping[str, Scheme | None],
    context: int,
) -> Layout:
    """Give every tensor its place, in the order of `names` (the checkpoint's own, so one pass suffices)."""
    shapes = architecture.tensor_shapes()
    tensors = {}
    offset = 0
    for name in names:
        if name in shapes:
            regions = place(offset, region_sizes(shapes[name], schemes[name]))
            tensors[name] = PackedTensor(name, shapes[name], schemes[name], regions)
            offset = regions[-1].offset + regions[-1].size
    tables = []
    for name, table in rotary_tables(architecture, context).items():
        (region,) = place(offset, [table.nbytes])
        tables.append((name, region, table))
        offset = region.offset + region.size
    return Layout(tensors, tuple(tables), offset)


def footprint(target: Target) -> Footprint:  # noqa: ARG001 - the same for every CPU
    """float32 activations and cache. The engine without a weight was measured by tests/bench/memory."""
    return Footprint(
        engine_bytes=250_000_000, cache_bytes_per_number=4, activation_bytes=4, prefill_tokens=PREFILL_TOKENS
    )


def context_limit(architecture: Architecture) -> ContextLimit | None:
    """LongRoPE's original context, when the engine does not know that its factors change there."""
    rotary = architecture.rotary
    if rotary.long_factor is None or rotary.original_context == _ENGINE_SWITCHES_AT:
        return None
    return ContextLimit(
        rotary.original_context,
        f"the engine changes LongRoPE's factors at {_ENGINE_SWITCHES_AT} tokens, "
        f"this model at {rotary.original_context}",
    )


def check_schemes(schemes: Mapping[str, Scheme | None], target: Target) -> None:
    """The operators take every scheme that there is."""


def artifact_bytes(
    architecture: Architecture,
    schemes: Mapping[str, Scheme | None],
    target: Target,  # noqa: ARG001 - no kernel option changes the size
    context: int,
) -> int:
    """Size of the data file, known before a byte of the checkpoint is."""
    rotary = architecture.rotary
    versions = 2 if rotary.uses_long_factors(context) else 1
    tables = 2 * align(versions * context * rotary.size // 2 * 4)
    sizes = (region_sizes(shape, schemes[name]) for name, shape in architecture.tensor_shapes().items())
    return sum(align(size) for tensor in sizes for size in tensor) + tables


def rotary_tables(architecture: Architecture, context: int) -> dict[str, NDArray[np.float32]]:
    """Cosines and sines, [context, rotary size / 2] each.

    Where the context passes LongRoPE's original one, [2, context, rotary size / 2]: short, then long factors.
    """
    rotary = architecture.rotary
    versions = (False, True) if rotary.uses_long_factors(context) else (False,)
    frequencies = np.array([rotary.inverse_frequencies(long=long) for long in versions])  # [versions, size/2]
    angles = np.arange(context)[:, None] * frequencies[:, None, :]  # [versions, context, size/2], radians
    tables = {"cos_cache": np.cos(angles), "sin_cache": np.sin(angles)}
    return {
        name: (table * rotary.magnitude).astype(np.float32).squeeze(0)
        if len(versions) == 1
        else (table * rotary.magnitude).astype(np.float32)
        for name, table in tables.items()
    }


def write_artifact(
    folder: Path,
    checkpoint: Checkpoint,
    schemes: Mapping[str, Scheme | None],
    target: Target,
    context: int,
    *,
    progress: Callable[[int], None] | None = None,
) -> StreamReport:
    """Write graph, data and configuration of `checkpoint` into `folder`, in one pass over the weights."""
    architecture = checkpoint.architecture
    names = (entry.name for shard in checkpoint.shards for entry in shard.entries)
    layout = lay_out(names, architecture, schemes, context)
    with (folder / DATA_FILE).open("wb") as file:
        report = stream_tensors(
            checkpoint.shards,
            layout.tensors,
            pack,
            file,
            lookup_tables=[(region, table) for _, region, table in layout.tables],
            progress=progress,
        )
    model = build_graph(architecture, layout, context, target.kernels.accuracy_level)
    (folder / GRAPH_FILE).write_bytes(model.SerializeToString(deterministic=True))
    config = genai_config(architecture, checkpoint.tokenizer.stop_token_ids, context)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    checkpoint.copy_tokenizer(folder)
    return report


def genai_config(architecture: Architecture, stop_token_ids: tuple[int, ...], context: int) -> dict[str, Any]:
    """The configuration that `onnxruntime_genai.Model` reads beside the graph."""
    search: dict[str, Any] = {
        "do_sample": False,
        "max_length": context,
        "min_length": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "past_present_share_buffer": True,
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_k": 50,
        "top_p": 1.0,
    }
    if architecture.rotary.uses_long_factors(context):
        # A model of this type is prefilled again when its answer passes 4,096 tokens, as LongRoPE needs.
        # A prompt must stay whole: in chunks it would begin with the short factors and end with the long.
        kind = "phi3"
    else:
        # The same decoder, without that second prefill.
        kind = "llama"
        search["chunk_size"] = PREFILL_TOKENS
    pad = architecture.pad_token_id
    return {
        "model": {
            "type": kind,
            "bos_token_id": architecture.bos_token_id,
            "eos_token_id": list(stop_token_ids),
            "pad_token_id": pad if pad is not None else stop_token_ids[0],
            "vocab_size": architecture.vocabulary_size,
            "context_length": context,
            "decoder": {
                "filename": GRAPH_FILE,
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "head_size": architecture.head_size,
                "hidden_size": architecture.hidden_size,
                "num_attention_heads": architecture.heads,
                "num_hidden_layers": architecture.layers,
                "num_key_value_heads": architecture.kv_heads,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": search,
    }


def build_graph(
    architecture: Architecture, layout: Layout, context: int, accuracy_level: int
) -> onnx.ModelProto:
    """The decoder as a graph whose weights are references into the data file."""
    graph = _Graph(layout, accuracy_level)
    cache_shape: list[str | int] = ["batch", architecture.kv_heads, "past_length", architecture.head_size]
    inputs = [
        _value("input_ids", TensorProto.INT64, ["batch", "length"]),
        _value("attention_mask", TensorProto.INT64, ["batch", "total_length"]),
    ]
    outputs = [_value("logits", TensorProto.FLOAT, ["batch", "length", architecture.vocabulary_size])]
    for layer in range(architecture.layers):
        for part in ("key", "value"):
            inputs.append(_value(f"past_key_values.{layer}.{part}", TensorProto.FLOAT, cache_shape))
            present: list[str | int] = [*cache_shape[:2], "total_length", cache_shape[3]]
            outputs.append(_value(f"present.{layer}.{part}", TensorProto.FLOAT, present))

    # Lengths as GroupQueryAttention wants them: index of each sequence's last token, and the longest total.
    mask_sum = graph.node("ReduceSum", ["attention_mask", graph.integers("axis_1", [1])], keepdims=0)
    last = graph.node("Sub", [mask_sum, graph.integers("one", [1])])
    sequence_ends = graph.node("Cast", [last], to=TensorProto.INT32)  # [batch]
    mask_shape = graph.node("Shape", ["attention_mask"])
    total = graph.node("Gather", [mask_shape, graph.integers("index_1", 1)], axis=0)
    total_length = graph.node("Cast", [total], to=TensorProto.INT32)  # scalar

    cos, sin = graph.table("cos_cache"), graph.table("sin_cache")
    if architecture.rotary.uses_long_factors(context):
        # One length decides for all positions: index 0 holds the short factors' table, 1 the long ones'.
        limit = graph.integers("original_context", architecture.rotary.original_context)
        chosen = graph.node("Cast", [graph.node("Greater", [total, limit])], to=TensorProto.INT64)
        cos = graph.node("Gather", [cos, chosen], axis=0)  # [context, rotary size / 2]
        sin = graph.node("Gather", [sin, chosen], axis=0)

    hidden = graph.embedding(_EMBEDDING, "input_ids")  # [batch, length, hidden]
    epsilon = architecture.norm_epsilon
    normed = graph.node(
        "SimplifiedLayerNormalization",
        [hidden, graph.vector("model.layers.0.input_layernorm.weight")],
        axis=-1,
        epsilon=epsilon,
        stash_type=1,
    )
    for layer in range(architecture.layers):
        prefix = f"model.layers.{layer}."
        # [batch, length, (heads + 2 kv_heads) * head_size]
        qkv = graph.matmul(prefix + "self_attn.qkv_proj.weight", normed)
        past = [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"]
        window = architecture.sliding_window
        attended = f"{prefix}attention"  # [batch, length, heads * head_size]
        graph.add(
            "GroupQueryAttention",
            [qkv, "", "", *past, sequence_ends, total_length, cos, sin],
            [attended, f"present.{layer}.key", f"present.{layer}.value"],
            num_heads=architecture.heads,
            kv_num_heads=architecture.kv_heads,
            scale=architecture.head_size**-0.5,
            do_rotary=1,
            rotary_interleaved=0,
            # A window as wide as the context is no window, and the kernel is quicker without.
            local_window_size=window if window is not None and window < context else -1,
        )
        projected = graph.matmul(prefix + "self_attn.o_proj.weight", attended)
        normed, hidden = graph.add_and_norm(
            hidden, projected, prefix + "post_attention_layernorm.weight", epsilon
        )
        gate_up = graph.matmul(prefix + "mlp.gate_up_proj.weight", normed)  # [batch, length, 2 ffn]
        gate, up = f"{prefix}gate", f"{prefix}up"
        graph.add("Split", [gate_up], [gate, up], axis=-1, num_outputs=2)
        activated = graph.node("Mul", [gate, graph.node("Sigmoid", [gate])])  # SiLU
        fed = graph.matmul(prefix + "mlp.down_proj.weight", graph.node("Mul", [activated, up]))
        following = f"model.layers.{layer + 1}.input_layernorm.weight"
        if layer + 1 == architecture.layers:
            following = "model.norm.weight"
        normed, hidden = graph.add_and_norm(hidden, fed, following, epsilon)
    graph.matmul(architecture.head_name, normed, output="logits")

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

    def __init__(self, layout: Layout, accuracy_level: int) -> None:
        self._layout = layout
        self._accuracy_level = accuracy_level
        self._names: set[str] = set()
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
        return self._external(name, TensorProto.FLOAT, table.shape, region)

    def vector(self, name: str) -> str:
        tensor = self._layout.tensors[name]
        return self._external(name, TensorProto.FLOAT, tensor.shape, tensor.regions[0])

    def embedding(self, name: str, indices: str) -> str:
        tensor = self._layout.tensors[name]
        scheme = _scheme_of(tensor)
        rows, columns = tensor.shape
        inputs = [
            self._external(
                f"{name}.codes", TensorProto.UINT8, (rows, columns * scheme.bits // 8), tensor.regions[0]
            ),
            indices,
            *self._scales_and_zeros(name, tensor, scheme),
        ]
        return self.node(
            "GatherBlockQuantized",
            inputs,
            bits=scheme.bits,
            block_size=scheme.group_size,
            gather_axis=0,
            quantize_axis=1,
        )

    def matmul(self, name: str, activations: str, *, output: str | None = None) -> str:
        """`activations` [..., columns] times the transpose of the quantised matrix `name` [rows, columns]."""
        tensor = self._layout.tensors[name]
        scheme = _scheme_of(tensor)
        rows, columns = tensor.shape
        groups = columns // scheme.group_size
        # A tied head reads the embedding's bytes under a second name, in the shape that this operator wants.
        prefix = "lm_head.weight" if name == _EMBEDDING else name
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

    def add_and_norm(self, hidden: str, addend: str, weight: str, epsilon: float) -> tuple[str, str]:
        """RMSNorm of the sum, and the sum itself."""
        normed, total = f"{weight}.normed", f"{weight}.sum"
        self.add(
            "SkipSimplifiedLayerNormalization",
            [hidden, addend, self.vector(weight)],
            [normed, "", "", total],
            epsilon=epsilon,
        )
        return normed, total

    def _scales_and_zeros(self, prefix: str, tensor: PackedTensor, scheme: Scheme) -> list[str]:
        rows, columns = tensor.shape
        groups = columns // scheme.group_size
        names = [self._external(f"{prefix}.scales", TensorProto.FLOAT, (rows, groups), tensor.regions[1])]
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


def artifact_weights(folder: Path, architecture: Architecture) -> "ArtifactWeights":
    """The weights of the artifact in `folder`."""
    return ArtifactWeights(folder, architecture)


class ArtifactWeights:
    """The weights as the artifact holds them, dequantised a few rows at a time.

    Reads the finished graph and data file, not our plan of them, so that the reference computes with what
    the engine will read. Has `architecture` and `rows`, as the reference's forward pass wants.
    """

    def __init__(self, folder: Path, architecture: Architecture) -> None:
        self.architecture = architecture
        self._data = folder / DATA_FILE
        graph = onnx.load(folder / GRAPH_FILE, load_external_data=False).graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._bits: dict[str, int] = {}
        for node in graph.node:
            weight = {"MatMulNBits": 1, "GatherBlockQuantized": 0}.get(node.op_type)
            if weight is not None:
                attributes = {attribute.name: attribute.i for attribute in node.attribute}
                self._bits[node.input[weight].removesuffix(".codes")] = attributes["bits"]

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of a matrix, float32 [stop - start, columns], or that part of a vector."""
        if name not in self._bits:
            return self._read(name, start, stop, np.float32)
        bits = self._bits[name]
        count = stop - start
        codes = self._read(f"{name}.codes", start, stop, np.uint8).reshape(count, -1)
        scales = self._read(f"{name}.scales", start, stop, np.float32)
        zero_points: NDArray[np.uint8] | int = 1 << (bits - 1)
        if f"{name}.zero_points" in self._tensors:
            zero_points = self._read(f"{name}.zero_points", start, stop, np.uint8)
            if bits == 4:
                zero_points = unpack_nibbles(zero_points)[:, : scales.shape[1]]
        return dequantize(unpack_nibbles(codes) if bits == 4 else codes, scales, zero_points)

    def _read(self, name: str, start: int, stop: int, dtype: type[Any]) -> NDArray[Any]:
        tensor = self._tensors[name]
        where = {entry.key: entry.value for entry in tensor.external_data}
        shape = tuple(tensor.dims)
        row_items = int(np.prod(shape[1:], dtype=np.int64))
        offset = int(where["offset"]) + start * row_items * np.dtype(dtype).itemsize
        with self._data.open("rb") as file:
            data = np.fromfile(file, dtype=dtype, count=(stop - start) * row_items, offset=offset)
        return data.reshape(stop - start, *shape[1:])
