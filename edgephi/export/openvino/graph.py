"""A decoder of the Phi-3 family as an OpenVINO graph whose key-value cache is the model's state.

The shapes of its subgraphs are those that OpenVINO's plugins recognise and replace by one kernel each
(RMSNorm, RoPE, compressed matrices, attention with its cache), and those that its paged attention is made
from. A comment says so where another shape would compute the same.

Names: B batch, L new tokens, T all tokens so far, H hidden size, S head size.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgephi.checkpoint.architecture import Architecture, LayerNorm, Norm
from edgephi.checkpoint.roles import EMBEDDING, FINAL_NORM, HEAD, HEAD_BIAS, ModelTensor, Role, bias_of
from edgephi.export.openvino.attention_mask import AttentionMasks, attention_masks
from edgephi.export.openvino.feed_forward import add_feed_forward
from edgephi.export.openvino.intermediate_representation import UNKNOWN, Graph, Value
from edgephi.export.openvino.operators import Operators
from edgephi.export.stream.packed_tensor import PackedTensor
from edgephi.export.tensor_names import node_name, tensor_name

TOTAL_LENGTH = "total_length"
"""The layer whose value decides about LongRoPE's factors: the number of tokens up to the last new one."""

_EMBEDDINGS = "inputs_embeds"  # as `VLMPipeline` and paged attention call them


@dataclass(frozen=True)
class _Sequence:
    """What all layers share: where the new tokens stand, what they may look at, and how they are rotated."""

    batch: Value  # i64 [1]
    beam_idx: Value  # i32 [B]
    masks: AttentionMasks
    cosines: Value  # f32 [B, 1, L, rotary size]
    sines: Value  # f32 [B, 1, L, rotary size]


def build_graph(
    architecture: Architecture,
    tensors: Mapping[ModelTensor, PackedTensor],
    context: int,
    *,
    literals_at: int,
) -> Graph:
    """The decoder for `context` tokens; its weights are the regions of `tensors`.

    Where images may stand between its tokens, it is given embeddings in the place of ids.
    """
    graph = Graph("phi3", literals_at=literals_at)
    operators = Operators(graph, tensors)
    if architecture.image_encoder is None:
        given = graph.parameter("input_ids", "i64", (UNKNOWN, UNKNOWN))
    else:
        given = graph.parameter(_EMBEDDINGS, "f32", (UNKNOWN, UNKNOWN, architecture.hidden_size))
    attention_mask = graph.parameter("attention_mask", "i64", (UNKNOWN, UNKNOWN))
    position_ids = graph.parameter("position_ids", "i64", (UNKNOWN, UNKNOWN))
    beam_idx = graph.parameter("beam_idx", "i32", (UNKNOWN,))
    cosines, sines = _rotation(operators, architecture, context, position_ids)
    sequence = _Sequence(
        batch=operators.dimension(given, 0),
        beam_idx=beam_idx,
        masks=attention_masks(operators, architecture.attention, context, given, attention_mask),
        cosines=cosines,
        sines=sines,
    )
    hidden = given if architecture.image_encoder else operators.embedding(EMBEDDING, given)  # [B, L, H]
    hidden = _scaled(operators, architecture.embedding_multiplier, hidden, sequence.masks, attention_mask)
    for layer in range(architecture.layers):
        normed = _norm(operators, architecture.norm, ModelTensor(Role.ATTENTION_NORM, layer), hidden)
        attended = _attention(operators, architecture, layer, normed, sequence)
        hidden = operators.add(hidden, attended)
        normed = _norm(operators, architecture.norm, ModelTensor(Role.FEED_FORWARD_NORM, layer), hidden)
        hidden = operators.add(hidden, add_feed_forward(operators, architecture.feed_forward, layer, normed))
    normed = _norm(operators, architecture.norm, FINAL_NORM, hidden)
    graph.result("logits", _logits(operators, architecture, normed))  # [B, L, vocabulary]
    return graph


def build_embeddings_graph(tensors: Mapping[ModelTensor, PackedTensor], *, literals_at: int) -> Graph:
    """Token ids, i64 [B, L], to what the decoder is given in the place of ids, f32 [B, L, H]."""
    graph = Graph("text_embeddings", literals_at=literals_at)
    ids = graph.parameter("input", "i64", (UNKNOWN, UNKNOWN))
    graph.result(_EMBEDDINGS, Operators(graph, tensors).embedding(EMBEDDING, ids))
    return graph


def _scaled(o: Operators, factor: float, x: Value, masks: AttentionMasks, attention_mask: Value) -> Value:
    """The embeddings, times their factor."""
    if masks.sparse is None:
        return o.scale(x, factor)
    # Paged attention drops masks, and would have every layer see everything. It is made only of graphs in
    # which nothing but masks asks for the input `attention_mask`: here the factor does, for its length.
    total = o.dimension(attention_mask, 1)
    some = o.greater(total, o.literal(0))
    return o.multiply(x, o.select(some, o.literal([factor], "f32"), o.literal([0.0], "f32")))


def _logits(o: Operators, architecture: Architecture, x: Value) -> Value:
    logits = o.scale(o.project(architecture.head, x, label=tensor_name(HEAD)), architecture.logits_multiplier)
    if architecture.head_bias:
        logits = o.add(logits, o.plain(HEAD_BIAS))
    if not architecture.unused_token_ids:
        return logits
    unused = np.zeros(architecture.vocabulary_size, np.uint8)
    unused[list(architecture.unused_token_ids)] = 1
    never = o.literal(np.finfo(np.float32).min, "f32")
    return o.select(o.literal(unused, "boolean"), never, logits)


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
    magnitude = None if rotary.magnitude == 1 else o.literal(rotary.magnitude, "f32")
    if rotary.uses_long_factors(context):
        # Taken from the positions, not from the mask: paged attention has no mask.
        last = o.reduce("ReduceMax", position_ids, [0, 1], keep=False)
        total = o.add(last, o.literal(1), name=TOTAL_LENGTH)
        is_long = o.greater(total, o.literal(rotary.original_context))
        chosen = o.select(is_long, frequencies(long=True), chosen)
        if rotary.magnitude_of(long=True) != rotary.magnitude:
            short, long = (o.literal(rotary.magnitude_of(long=each), "f32") for each in (False, True))
            magnitude = o.select(is_long, long, short)
    positions = o.convert(o.unsqueeze(position_ids, [1]), "f32")  # [B, 1, L]
    angles = o.transpose(o.matmul(chosen, positions, transpose_b=False), [0, 2, 1])  # [B, L, rotary size / 2]
    both_halves = o.concat([angles, angles], -1)

    def wave(kind: str) -> Value:
        value = o.unary(kind, both_halves)
        return o.unsqueeze(value if magnitude is None else o.multiply(value, magnitude), [1])

    return wave("Cos"), wave("Sin")


def _norm(o: Operators, kind: Norm, norm: ModelTensor, x: Value) -> Value:
    """A norm over the last dimension."""
    if isinstance(kind, LayerNorm):
        return o.add(o.multiply(o.standardise(x, kind.epsilon), o.plain(norm)), o.plain(bias_of(norm)))
    mean = o.reduce("ReduceMean", o.power(x, o.literal(2.0, "f32")), [-1], keep=True)
    root = o.unary("Sqrt", o.add(mean, o.literal(kind.epsilon, "f32")))
    return o.multiply(o.plain(norm), o.multiply(x, o.divide(o.literal(1.0, "f32"), root)))


def _attention(o: Operators, architecture: Architecture, layer: int, x: Value, sequence: _Sequence) -> Value:
    """Grouped-query attention over the cache and the new tokens, [B, L, H] -> [B, L, H]."""
    attention = architecture.attention
    heads, kv_heads, size = attention.heads, attention.kv_heads, attention.head_size
    qkv = o.project(
        ModelTensor(Role.QUERY_KEY_VALUE, layer), x, biased=attention.biases
    )  # [B, L, (heads + 2 kv_heads) * S]
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
    mask = sequence.masks.of(layer)
    mixed = o.attention(query, keys, values, mask, scale=attention.scale, name=name)  # [B, heads, L, S]
    joined = o.reshape(o.transpose(mixed, [0, 2, 1, 3]), [0, 0, heads * size], (*x.shape[:2], heads * size))
    return o.project(ModelTensor(Role.ATTENTION_OUTPUT, layer), joined, biased=attention.biases)


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
