"""The Phi-3 decoder as an OpenVINO graph whose key-value cache is the model's state.

The shapes of its subgraphs are those that OpenVINO's plugins recognise and replace by one kernel each
(RMSNorm, RoPE, compressed matrices, attention with its cache), and those that its paged attention is made
from. A comment says so where another shape would compute the same.

Names: B batch, L new tokens, T all tokens so far, H hidden size, S head size.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import EMBEDDING, FINAL_NORM, HEAD, ModelTensor, Role
from edgephi.export.openvino.intermediate_representation import UNKNOWN, Graph, Value
from edgephi.export.openvino.operators import Operators
from edgephi.export.stream.packed_tensor import PackedTensor
from edgephi.export.tensor_names import node_name, tensor_name

TOTAL_LENGTH = "total_length"
"""The layer whose value decides about LongRoPE's factors: the number of tokens up to the last new one."""

_HIDDEN_SCORE = -65504.0  # float16's lowest: exp of it is 0, and a row of nothing else stays finite


@dataclass(frozen=True)
class _Sequence:
    """What all layers share: where the new tokens stand, what they may look at, and how they are rotated."""

    batch: Value  # i64 [1]
    beam_idx: Value  # i32 [B]
    mask: Value  # f32 [B, 1, L, T]
    cosines: Value  # f32 [B, 1, L, rotary size]
    sines: Value  # f32 [B, 1, L, rotary size]


def build_graph(
    architecture: Architecture,
    tensors: Mapping[ModelTensor, PackedTensor],
    context: int,
    *,
    literals_at: int,
) -> Graph:
    """The decoder for `context` tokens; its weights are the regions of `tensors`."""
    graph = Graph("phi3", literals_at=literals_at)
    operators = Operators(graph, tensors)
    input_ids = graph.parameter("input_ids", "i64", (UNKNOWN, UNKNOWN))
    attention_mask = graph.parameter("attention_mask", "i64", (UNKNOWN, UNKNOWN))
    position_ids = graph.parameter("position_ids", "i64", (UNKNOWN, UNKNOWN))
    beam_idx = graph.parameter("beam_idx", "i32", (UNKNOWN,))
    cosines, sines = _rotation(operators, architecture, context, position_ids)
    sequence = _Sequence(
        batch=operators.dimension(input_ids, 0),
        beam_idx=beam_idx,
        mask=_mask(operators, architecture, context, input_ids, attention_mask),
        cosines=cosines,
        sines=sines,
    )
    hidden = operators.embedding(EMBEDDING, input_ids)  # [B, L, H]
    for layer in range(architecture.layers):
        norm = ModelTensor(Role.ATTENTION_NORM, layer)
        normed = _rms_norm(operators, norm, hidden, architecture.norm.epsilon)
        attended = _attention(operators, architecture, layer, normed, sequence)
        hidden = operators.add(hidden, attended)
        norm = ModelTensor(Role.FEED_FORWARD_NORM, layer)
        normed = _rms_norm(operators, norm, hidden, architecture.norm.epsilon)
        hidden = operators.add(hidden, _feed_forward(operators, architecture, layer, normed))
    normed = _rms_norm(operators, FINAL_NORM, hidden, architecture.norm.epsilon)
    logits = operators.project(architecture.head, normed, label=tensor_name(HEAD))
    graph.result("logits", logits)  # [B, L, vocabulary]
    return graph


def _mask(
    o: Operators, architecture: Architecture, context: int, input_ids: Value, attention_mask: Value
) -> Value:
    """What is added to the scores: 0 where a new token sees one before it or itself, else very low."""
    length = o.dimension(input_ids, 1)  # [1]
    total = o.dimension(attention_mask, 1)  # [1]
    past = o.subtract(o.scalar(total), o.scalar(length))
    query = o.unsqueeze(o.range(past, o.scalar(total)), [0, 1, 3])  # [1, 1, L, 1]
    key = o.unsqueeze(o.range(o.literal(0), o.scalar(total)), [0, 1, 2])  # [1, 1, 1, T]
    seen = o.less_equal(key, query)  # [1, 1, L, T]
    real = o.unsqueeze(o.convert(attention_mask, "boolean"), [1, 2])  # [B, 1, 1, T]: no padding
    scores = (o.literal(0.0, "f32"), o.literal(_HIDDEN_SCORE, "f32"))
    window = architecture.attention.window
    if window is None or window >= context:
        return o.select(o.both(seen, real), *scores)
    near = o.greater(key, o.add(query, o.literal(-window)))
    # Paged attention knows a window by exactly this chain: four "and" with the window in the first, then
    # Broadcast, Select and Slice. It takes the number from `near` and drops the mask.
    allowed = o.both(o.both(real, o.both(o.both(seen, near), real)), seen)
    shape = o.concat([o.dimension(attention_mask, 0), o.literal([1]), length, total], 0)
    everywhere = o.broadcast(allowed, shape, (UNKNOWN, 1, UNKNOWN, UNKNOWN))
    return o.slice(o.select(everywhere, *scores), stop=total, axis=3)


def _rotation(
    o: Operators, architecture: Architecture, context: int, position_ids: Value
) -> tuple[Value, Value]:
    """Cosines and sines of every new token's angles, f32 [B, 1, L, rotary size] each, halves repeated."""
    rotary = architecture.attention.rotary
    half = rotary.size // 2

    def frequencies(*, long: bool) -> Value:
        return o.literal(
            np.array(rotary.inverse_frequencies(long=long), np.float32).reshape(1, half, 1), "f32"
        )

    chosen = frequencies(long=False)  # [1, rotary size / 2, 1]
    if rotary.uses_long_factors(context):
        # Taken from the positions, not from the mask: paged attention has no mask.
        last = o.reduce("ReduceMax", position_ids, [0, 1], keep=False)
        total = o.add(last, o.literal(1), name=TOTAL_LENGTH)
        is_long = o.greater(total, o.literal(rotary.original_context))
        chosen = o.select(is_long, frequencies(long=True), chosen)
    positions = o.convert(o.unsqueeze(position_ids, [1]), "f32")  # [B, 1, L]
    angles = o.transpose(o.matmul(chosen, positions, transpose_b=False), [0, 2, 1])  # [B, L, rotary size / 2]
    both_halves = o.concat([angles, angles], -1)

    def wave(kind: str) -> Value:
        value = o.unary(kind, both_halves)
        if rotary.magnitude != 1:
            value = o.multiply(value, o.literal(rotary.magnitude, "f32"))
        return o.unsqueeze(value, [1])

    return wave("Cos"), wave("Sin")


def _rms_norm(o: Operators, norm: ModelTensor, x: Value, epsilon: float) -> Value:
    """RMSNorm over the last dimension: x / sqrt(mean(x²) + epsilon) * weight."""
    mean = o.reduce("ReduceMean", o.power(x, o.literal(2.0, "f32")), [-1], keep=True)
    root = o.unary("Sqrt", o.add(mean, o.literal(epsilon, "f32")))
    return o.multiply(o.vector(norm), o.multiply(x, o.divide(o.literal(1.0, "f32"), root)))


def _attention(o: Operators, architecture: Architecture, layer: int, x: Value, sequence: _Sequence) -> Value:
    """Grouped-query attention over the cache and the new tokens, [B, L, H] -> [B, L, H]."""
    attention = architecture.attention
    heads, kv_heads, size = attention.heads, attention.kv_heads, attention.head_size
    qkv = o.project(ModelTensor(Role.QUERY_KEY_VALUE, layer), x)  # [B, L, (heads + 2 kv_heads) * S]
    widths = [count * size for count in (heads, kv_heads, kv_heads)]
    parts = [
        o.transpose(o.reshape(part, [0, 0, count, size], (*part.shape[:2], count, size)), [0, 2, 1, 3])
        for part, count in zip(o.split(qkv, -1, widths), (heads, kv_heads, kv_heads), strict=True)
    ]  # each [B, heads or kv_heads, L, S]
    query, key = (_rotate(o, attention.rotary.size, part, sequence) for part in parts[:2])
    keys, values = (
        _with_past(o, f"past_key_values.{layer}.{kind}present.{layer}.{kind}", new, sequence)
        for kind, new in (("key", key), ("value", parts[2]))
    )  # each [B, kv_heads, T, S]
    if kv_heads < heads:
        keys, values = (_repeat(o, each, heads) for each in (keys, values))  # [B, heads, T, S]
    name = node_name(layer, "self_attn.attention")
    mixed = o.attention(query, keys, values, sequence.mask, name=name)  # [B, heads, L, S]
    joined = o.reshape(o.transpose(mixed, [0, 2, 1, 3]), [0, 0, heads * size], (*x.shape[:2], heads * size))
    return o.project(ModelTensor(Role.ATTENTION_OUTPUT, layer), joined)


def _rotate(o: Operators, rotary_size: int, x: Value, sequence: _Sequence) -> Value:
    """RoPE on [B, heads, L, S]: the first half of the rotated dimensions is paired with the second."""
    rest = x.shape[-1] - rotary_size
    rotated, *kept = o.split(x, 3, [rotary_size, rest]) if rest else [x]
    first, second = o.split(rotated, 3, [rotary_size // 2, rotary_size // 2])
    turned = o.concat([o.multiply(second, o.literal(-1.0, "f32")), first], -1)
    result = o.add(o.multiply(rotated, sequence.cosines), o.multiply(turned, sequence.sines))
    return o.concat([result, *kept], -1) if kept else result


def _with_past(o: Operators, variable: str, new: Value, sequence: _Sequence) -> Value:
    """Append [B, kv_heads, L, S] to the state of that name; returns all of it, [B, kv_heads, T, S]."""
    _, kv_heads, _, size = new.shape
    empty = o.concat([sequence.batch, o.literal([kv_heads]), o.literal([0]), o.literal([size])], 0)
    start = o.broadcast(o.literal(0.0, "f32"), empty, (UNKNOWN, kv_heads, 0, size), bidirectional=False)
    past = o.read_state(variable, start, (UNKNOWN, kv_heads, UNKNOWN, size))
    reordered = o.gather(past, sequence.beam_idx, 0)
    present = o.concat([reordered, new], 2)
    o.write_state(variable, present)
    return present


def _repeat(o: Operators, x: Value, heads: int) -> Value:
    """Each head once for every query head of its group: [B, kv_heads, T, S] -> [B, heads, T, S]."""
    batch, kv_heads, total, size = x.shape
    times = heads // kv_heads
    apart = o.broadcast(
        o.unsqueeze(x, [2]), o.literal([1, 1, times, 1, 1]), (batch, kv_heads, times, total, size)
    )
    return o.reshape(apart, [0, heads, -1, size], (batch, heads, total, size))


def _feed_forward(o: Operators, architecture: Architecture, layer: int, x: Value) -> Value:
    """SwiGLU: down(silu(gate(x)) * up(x))."""
    width = architecture.feed_forward.width
    gate, up = o.split(o.project(ModelTensor(Role.GATE_UP, layer), x), -1, [width, width])
    gated = o.multiply(o.unary("Swish", gate, version="opset4"), up)
    return o.project(ModelTensor(Role.DOWN, layer), gated)
