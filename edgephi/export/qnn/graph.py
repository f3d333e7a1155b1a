"""The decoder of a Phi-3 as ONNX graphs of fixed shapes that the HTP takes whole.

Shapes, with N tokens of a call, C slots of the cache, H features, h query heads, k key heads of size D: the
residual stream [1, 1, N, H], convolutions take [1, features, 1, N].

Two things are done so that no large tensor is ever copied. Products with the cache and with the call's own
tokens are separate, so that nothing is appended to the cache inside: the caller writes the new keys and
values into it afterwards. And keys are kept transposed, as the product of the scores wants them.

Sources: ONNX's operators (QuantizeLinear, DequantizeLinear with `block_size`); which of them the HTP takes
with which types was tried out, see docs/targets/qnn.md.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import FINAL_NORM, HEAD, ModelTensor, Role
from edgephi.export.qnn.activations import HIDDEN_BELOW, Encoding, unsigned
from edgephi.export.qnn.nodes import GraphWriter, QnnModel
from edgephi.export.tensor_names import tensor_name
from edgephi.reference.activations import FINAL_NORM_INPUT, FINAL_NORM_OUTPUT, LOGITS, in_layer


@dataclass(frozen=True)
class Sizes:
    """The fixed sizes of a graph: `tokens` of a call, and `slots` of the cache."""

    tokens: int
    slots: int


@dataclass(frozen=True)
class _Call:
    """Values that all layers of a call use: cosines and sines [1, 1, N, rotary size / 2], and the mask."""

    sizes: Sizes
    cos: str
    sin: str
    mask: str


def layers_graph(model: QnnModel, layers: range, sizes: Sizes, *, name: str) -> onnx.ModelProto:
    """Some of the decoder's layers. The contract of its inputs and outputs is in docs/targets/qnn.md."""
    architecture, encodings = model.architecture, model.encodings
    graph = GraphWriter(model)
    tokens, slots = sizes.tokens, sizes.slots
    size, kv_heads = architecture.attention.head_size, architecture.attention.kv_heads
    cache = encodings[in_layer(layers.start, "self_attn.value")].kind
    half = architecture.attention.rotary.size // 2
    inputs = [
        _value("hidden", "float32", [1, 1, tokens, architecture.hidden_size]),
        _value("cos", "uint16", [1, 1, tokens, half]),
        _value("sin", "uint16", [1, 1, tokens, half]),
        _value("mask", "uint16", [1, 1, tokens, slots + tokens]),
    ]
    outputs = [_value("hidden_out", "float32", [1, 1, tokens, architecture.hidden_size])]
    turn = rope_encoding(architecture)
    # 65535, its zero point, is nothing; 0 moves any score below those that are seen.
    reach = max(_reach(encodings[in_layer(layer, "self_attn.scores")]) for layer in layers)
    distance = Encoding("uint16", float(np.float32(reach / 65535)), 65535)
    call = _Call(
        sizes, graph.decoded("cos", turn), graph.decoded("sin", turn), graph.decoded("mask", distance)
    )

    residual = graph.residual("hidden", in_layer(layers.start, "input"))
    for layer in layers:
        inputs += [
            _value(f"past_key_{layer}", cache, [1, kv_heads, size, slots]),
            _value(f"past_value_{layer}", cache, [1, kv_heads, slots, size]),
        ]
        outputs += [
            _value(f"new_key_{layer}", cache, [1, kv_heads, size, tokens]),
            _value(f"new_value_{layer}", cache, [1, kv_heads, tokens, size]),
        ]
        residual = _add_layer(graph, layer, residual, call)
    graph.rename(residual, "hidden_out")
    return graph.model(name, inputs, outputs)


def head_graph(model: QnnModel) -> onnx.ModelProto:
    """The last norm and the head, for one token: hidden [1, 1, 1, H] -> logits [1, vocabulary, 1, 1]."""
    architecture = model.architecture
    graph = GraphWriter(model)
    residual = graph.residual("hidden", FINAL_NORM_INPUT)
    normed = graph.norm(residual, FINAL_NORM, FINAL_NORM_OUTPUT, architecture.norm.epsilon)
    wide = graph.moved("Transpose", normed, FINAL_NORM_OUTPUT, perm=[0, 3, 1, 2])
    rows = range(architecture.vocabulary_size)
    # A head of its own by name too where it is the embedding's matrix: its codes are its own.
    words = graph.convolution(wide, architecture.head, rows, name=tensor_name(HEAD))
    graph.encoded(words, LOGITS, output="logits")
    inputs = [_value("hidden", "float32", [1, 1, 1, architecture.hidden_size])]
    outputs = [_value("logits", "uint16", [1, architecture.vocabulary_size, 1, 1])]
    return graph.model("head", inputs, outputs)


def rope_encoding(architecture: Architecture) -> Encoding:
    """How cosines and sines are encoded."""
    magnitude = architecture.attention.rotary.magnitude
    return unsigned(-magnitude, magnitude)


def rope_table(architecture: Architecture, slots: int) -> NDArray[np.uint16]:
    """Cosines and sines of all positions, as the graphs want them: uint16 [2, slots, rotary size / 2]."""
    rotary = architecture.attention.rotary
    frequencies = np.array(rotary.inverse_frequencies(long=False))
    angles = np.arange(slots)[:, None] * frequencies  # [slots, rotary size / 2], radians
    table = np.stack([np.cos(angles), np.sin(angles)]) * rotary.magnitude
    numbers: NDArray[np.uint16] = rope_encoding(architecture).numbers(table.astype(np.float32))
    return numbers


def _reach(scores: Encoding) -> float:
    """How far a score must be moved so that it lies below all that are seen."""
    return 65535 * scores.scale + HIDDEN_BELOW


def _add_layer(graph: GraphWriter, layer: int, residual: str, call: _Call) -> str:
    """One decoder layer; returns the residual stream after it."""
    architecture = graph.architecture
    attention, feed_forward = in_layer(layer, "self_attn."), in_layer(layer, "mlp.")
    epsilon = architecture.norm.epsilon
    normed = graph.norm(residual, ModelTensor(Role.ATTENTION_NORM, layer), attention + "input", epsilon)
    mixed = _attention(graph, layer, normed, call)  # [1, h * D, 1, N]
    rows = range(architecture.hidden_size)
    output = graph.convolution(mixed, ModelTensor(Role.ATTENTION_OUTPUT, layer), rows)
    output = graph.quantized(output, attention + "output")
    output = graph.moved("Transpose", output, attention + "output", perm=[0, 2, 3, 1])
    residual = graph.residual(graph.node("Add", [residual, output]), in_layer(layer, "attended"))

    normed = graph.norm(residual, ModelTensor(Role.FEED_FORWARD_NORM, layer), feed_forward + "input", epsilon)
    wide = graph.moved("Transpose", normed, feed_forward + "input", perm=[0, 3, 1, 2])  # [1, H, 1, N]
    half = architecture.feed_forward.width
    both = ModelTensor(Role.GATE_UP, layer)
    gate = graph.quantized(graph.convolution(wide, both, range(half)), feed_forward + "gate")
    up = graph.quantized(graph.convolution(wide, both, range(half, 2 * half)), feed_forward + "up")
    share = graph.fixed(graph.node("Sigmoid", [gate]), unsigned(0, 1))
    activated = graph.quantized(graph.node("Mul", [gate, share]), feed_forward + "activated")
    gated = graph.quantized(graph.node("Mul", [activated, up]), feed_forward + "gated")
    fed = graph.convolution(gated, ModelTensor(Role.DOWN, layer), rows)
    fed = graph.quantized(fed, feed_forward + "output")
    fed = graph.moved("Transpose", fed, feed_forward + "output", perm=[0, 2, 3, 1])
    following = FINAL_NORM_INPUT if layer + 1 == architecture.layers else in_layer(layer + 1, "input")
    return graph.residual(graph.node("Add", [residual, fed]), following)


def _attention(graph: GraphWriter, layer: int, normed: str, call: _Call) -> str:
    """Attention of N tokens to C slots of the cache and to themselves: [1, 1, N, H] -> [1, h * D, 1, N]."""
    names = in_layer(layer, "self_attn.")
    tokens, slots = call.sizes.tokens, call.sizes.slots
    attention = graph.architecture.attention
    size, heads, kv_heads = attention.head_size, attention.heads, attention.kv_heads
    shared = heads // kv_heads * tokens  # query rows of one key head
    wide = graph.moved("Transpose", normed, names + "input", perm=[0, 3, 1, 2])  # [1, H, 1, N]

    def by_head(first: int, count: int, encoding: Encoding, name: str | None) -> str:
        rows = range(first * size, (first + count) * size)
        product = graph.convolution(wide, ModelTensor(Role.QUERY_KEY_VALUE, layer), rows)
        product = graph.fixed(product, encoding, name=name)  # [1, count * D, 1, N]
        product = graph.fixed(graph.node("Transpose", [product], perm=[0, 2, 3, 1]), encoding)
        product = graph.fixed(graph.reshape(product, [1, tokens, count, size]), encoding)
        product = graph.node("Transpose", [product], perm=[0, 2, 1, 3])
        return graph.fixed(product, encoding)  # [1, count, N, D]

    query = by_head(0, heads, graph.encodings[names + "query"], names + "query")
    key = by_head(heads, kv_heads, graph.encodings[names + "key"], names + "key")
    # Values are products of 16 bits before they are made what the cache holds.
    product = symmetric_16(graph.encodings[names + "value"])
    value = by_head(heads + kv_heads, kv_heads, product, None)

    # The scale of the scores goes into the queries, whose numbers stay what they are.
    before = graph.encodings[names + "query"]
    scaled = Encoding(before.kind, float(np.float32(before.scale * size**-0.5)), before.zero_point)
    factor_encoding = unsigned(0, size**-0.5)  # whose largest number it is
    factor = graph.decoded(graph.constant(np.uint16(65535)), factor_encoding)
    query = graph.fixed(graph.node("Mul", [query, factor]), scaled)
    query = _rotated(graph, query, scaled, graph.encodings[names + "rotated_query"], call)
    query = graph.quantized(query, names + "rotated_query")
    query = graph.reshaped(query, names + "rotated_query", [1, kv_heads, shared, size])
    # Keys turn in 16 bits, and are then made what the cache holds.
    turned = symmetric_16(graph.encodings[names + "rotated_key"])
    key = _rotated(graph, key, graph.encodings[names + "key"], turned, call)
    key = graph.fixed(key, turned)
    key = graph.fixed(graph.node("Transpose", [key], perm=[0, 1, 3, 2]), turned)  # [1, k, D, N]
    new_key = graph.quantized(key, names + "rotated_key", numbers=f"new_key_{layer}")
    new_value = graph.quantized(value, names + "value", numbers=f"new_value_{layer}")
    past_key = graph.decoded(f"past_key_{layer}", graph.encodings[names + "rotated_key"])
    past_value = graph.decoded(f"past_value_{layer}", graph.encodings[names + "value"])

    parts = [
        graph.quantized(graph.node("MatMul", [query, keys]), names + "scores") for keys in (past_key, new_key)
    ]
    scores = graph.quantized(graph.node("Concat", parts, axis=3), names + "scores")  # [1, k, shared, C + N]
    scores = graph.reshaped(scores, names + "scores", [1, heads, tokens, slots + tokens])
    scores = graph.quantized(graph.node("Add", [scores, call.mask]), names + "masked_scores")
    shares = graph.quantized(graph.node("Softmax", [scores], axis=-1), names + "probabilities")
    shares = graph.reshaped(shares, names + "probabilities", [1, kv_heads, shared, slots + tokens])
    halves = []
    for start, stop, values in ((0, slots, past_value), (slots, slots + tokens, new_value)):
        part = graph.sliced(shares, names + "probabilities", start, stop)
        halves.append(graph.quantized(graph.node("MatMul", [part, values]), names + "mixed"))
    mixed = graph.quantized(graph.node("Add", halves), names + "mixed")  # [1, k, shared, D]
    mixed = graph.reshaped(mixed, names + "mixed", [1, heads, tokens, size])
    mixed = graph.moved("Transpose", mixed, names + "mixed", perm=[0, 2, 1, 3])
    mixed = graph.reshaped(mixed, names + "mixed", [1, 1, tokens, heads * size])
    return graph.moved("Transpose", mixed, names + "mixed", perm=[0, 3, 1, 2])


def symmetric_16(cache: Encoding) -> Encoding:
    """A uint16 encoding of the range that a cache's encoding has."""
    largest = max(abs(limit - cache.zero_point) for limit in cache.limits) * cache.scale
    return unsigned(-largest, largest)


def _rotated(graph: GraphWriter, heads: str, before: Encoding, after: Encoding, call: _Call) -> str:
    """RoPE of [1, heads, N, D]: see `reference.attention._rotate`. `before` and `after` encode it.

    The result has yet to pass `after`.
    """
    attention = graph.architecture.attention
    rotary, size = attention.rotary.size, attention.head_size
    # A number times a cosine is never larger than the number times the rotation's magnitude.
    farthest = max(abs(limit - before.zero_point) for limit in before.limits) * before.scale
    farthest *= attention.rotary.magnitude
    product = unsigned(-farthest, farthest)

    def times(part: str, factor: str) -> str:
        return graph.fixed(graph.node("Mul", [part, factor]), product)

    def part(start: int, stop: int) -> str:
        return graph.fixed(graph.slice(heads, start, stop), before)

    first, second = part(0, rotary // 2), part(rotary // 2, rotary)  # [1, heads, N, rotary size / 2]
    turned = [
        graph.fixed(graph.node("Sub", [times(first, call.cos), times(second, call.sin)]), after),
        graph.fixed(graph.node("Add", [times(second, call.cos), times(first, call.sin)]), after),
    ]
    if rotary < size:
        turned.append(graph.fixed(part(rotary, size), after))
    return graph.node("Concat", turned, axis=3)


def _value(name: str, kind: str, shape: list[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)
