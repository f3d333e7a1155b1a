"""Hugging Face transformers with the weights of an ONNX artifact, as the onnx library reads them.

Nothing here goes through our own decoding: the graph is walked node by node in the order of the decoder's
operators, so that a matrix in the wrong place, a nibble in the wrong half or a wrong zero point shows.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime_genai
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from transformers import AutoModelForCausalLM

Floats = NDArray[np.float32]


def tensors_of(folder: Path) -> dict[str, Floats]:
    """The weights of the artifact by the checkpoint's names, dequantised; experts are stacked."""
    graph = onnx.load(folder / "model.onnx").graph  # with its external data
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    embeddings: list[Floats] = []
    matrices: list[dict[str, Floats]] = []
    norms: list[dict[str, Floats]] = []
    routers: list[Floats] = []
    experts: list[tuple[Floats, Floats]] = []
    for node in graph.node:
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        inputs: list[Any] = [stored.get(name) for name in node.input]
        if node.op_type == "GatherBlockQuantized":
            codes, _, scales, zeros = _filled(inputs, 4)
            embeddings.append(_decode(codes, scales, zeros, attributes))
        elif node.op_type == "MatMulNBits":
            codes, scales, zeros, _, bias = _filled(inputs[1:], 5)
            matrix = _decode(codes.reshape(len(codes), -1), scales, zeros, attributes)
            assert matrix.shape == (attributes["N"], attributes["K"])
            matrices.append({"weight": matrix} if bias is None else {"weight": matrix, "bias": bias})
        elif node.op_type == "QMoE":
            given = _filled(inputs, 13)
            assert attributes["swiglu_fusion"] == 1  # rows of gate and up by turns
            first = _decode_stack(given[2], given[3], given[11], attributes["expert_weight_bits"])
            second = _decode_stack(given[5], given[6], given[12], attributes["fc2_expert_weight_bits"])
            experts.append((np.concatenate([first[:, 0::2], first[:, 1::2]], axis=1), second))
        elif node.op_type == "Transpose":
            routers.append(inputs[0])
        elif node.op_type.endswith("LayerNormalization"):
            own = [each for each in inputs if each is not None]
            norms.append(dict(zip(("weight", "bias"), own, strict=False)))
    parts = ["self_attn.qkv_proj", "self_attn.o_proj"]
    if not experts:
        parts += ["mlp.gate_up_proj", "mlp.down_proj"]
    layers = len(matrices) // len(parts)
    [embedding], *_ = [embeddings]
    tensors = {"model.embed_tokens.weight": embedding}

    def put(name: str, own: dict[str, Floats]) -> None:
        tensors.update((f"{name}.{suffix}", array) for suffix, array in own.items())

    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for place, part in enumerate(parts):
            put(prefix + part, matrices[layer * len(parts) + place])
        put(prefix + "input_layernorm", norms[2 * layer])
        put(prefix + "post_attention_layernorm", norms[2 * layer + 1])
        if experts:
            tensors[prefix + "block_sparse_moe.gate.weight"] = routers[layer]
            gate_up, down = experts[layer]
            tensors[prefix + "block_sparse_moe.experts.gate_up_proj.weight"] = gate_up
            tensors[prefix + "block_sparse_moe.experts.down_proj.weight"] = down
    put("model.norm", norms[-1])
    put("lm_head", matrices[-1])
    assert len(matrices) == layers * len(parts) + 1
    assert len(norms) == 2 * layers + 1
    assert len(experts) == len(routers) == (layers if experts else 0)
    return tensors


def _filled(inputs: list[Any], count: int) -> list[Any]:
    """A node's inputs, None for those that are left out at the end."""
    return [*inputs, *[None] * (count - len(inputs))][:count]


def _decode_stack(codes: NDArray[np.uint8], scales: Floats, zeros: Any, bits: int) -> Floats:
    """The matrices of a stack, [count, rows, columns]."""
    size = codes.shape[2] * 8 // bits // scales.shape[2]
    attributes = {"bits": bits, "block_size": size}
    all_zeros = [None] * len(codes) if zeros is None else zeros
    return np.stack([_decode(*each, attributes) for each in zip(codes, scales, all_zeros, strict=True)])


def _decode(
    codes: NDArray[np.uint8],
    scales: Floats,
    zeros: NDArray[np.uint8] | None,
    attributes: dict[str, int],
) -> Floats:
    """`(code - zero point) * scale` as onnxruntime's ContribOperators.md describes it."""
    bits, size = attributes["bits"], attributes["block_size"]
    rows, groups = scales.shape
    if zeros is None:
        zeros = np.full((rows, groups), 1 << (bits - 1), np.uint8)
    elif bits == 4:
        zeros = np.stack([zeros & 15, zeros >> 4], axis=-1).reshape(rows, -1)[:, :groups]
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1)
    codes = codes.reshape(rows, groups, size)
    weights = (codes.astype(np.float32) - zeros[:, :, None]) * scales[:, :, None]
    return weights.reshape(rows, groups * size).astype(np.float32)


def transformers_model(checkpoint: Path, artifact: Path | None = None) -> Any:
    """The checkpoint in float32; with the artifact's weights where one is given."""
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    if artifact is None:
        return model
    tensors = tensors_of(artifact)
    if model.config.model_type == "phimoe":
        tensors = _as_phimoe(tensors, model.config)
    parameters = dict(model.named_parameters())
    if model.config.tie_word_embeddings:
        np.testing.assert_array_equal(
            tensors.pop("lm_head.weight"), tensors["model.embed_tokens.weight"], strict=True
        )
    assert parameters.keys() == tensors.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            assert parameter.shape == tensors[name].shape, name
            parameter.copy_(torch.from_numpy(tensors[name].copy()))
    return model


def _as_phimoe(tensors: dict[str, Floats], config: Any) -> dict[str, Floats]:
    """The tensors under the names that transformers has for the parts of a Phi-3.5-MoE in memory."""
    size = config.hidden_size // config.num_attention_heads
    edges = np.cumsum([config.num_attention_heads * size, config.num_key_value_heads * size])
    found = {}
    for name, array in tensors.items():
        if ".qkv_proj." in name:
            for part, rows in zip("qkv", np.split(array, edges), strict=True):
                found[name.replace("qkv_proj", f"{part}_proj")] = rows
        elif ".experts." in name:
            found[name.replace("block_sparse_moe", "mlp").removesuffix(".weight")] = array
        else:
            found[name.replace("block_sparse_moe.gate", "mlp.router")] = array
    return found


def expected_logits(model: Any, ids: list[int], *, last: int = 0) -> Floats:
    """One fresh prefill in transformers; logits of the `last` tokens, of all when 0."""
    with torch.no_grad():
        found = model(torch.tensor([ids]), use_cache=False, logits_to_keep=last).logits[0]
    logits: Floats = found.numpy()
    return logits


class Engine:
    """onnxruntime-genai on a folder, opened as it is."""

    def __init__(self, folder: Path) -> None:
        self._model = onnxruntime_genai.Model(str(folder))

    def generator(self, length: int) -> Any:
        """A fresh generator that never samples, with a cache for `length` tokens."""
        parameters = onnxruntime_genai.GeneratorParams(self._model)
        parameters.set_search_options(max_length=length, do_sample=False)
        return onnxruntime_genai.Generator(self._model, parameters)

    def prefill(self, ids: list[int], *, length: int | None = None) -> Floats:
        """Logits of one prefill: of every token, or of its last chunk where the engine cuts the prompt."""
        generator = self.generator(length or len(ids))
        generator.append_tokens(ids)
        logits: Floats = generator.get_output("logits")[0]
        return logits

    def stepped(self, ids: list[int]) -> Floats:
        """Logits of every token, each appended alone."""
        generator = self.generator(len(ids))
        rows = []
        for token in ids:
            generator.append_tokens([token])
            rows.append(generator.get_output("logits")[0][-1])
        return np.stack(rows)


def mean_kl(expected: Floats, found: Floats) -> float:
    """Mean KL(expected ‖ found) in nats, over rows of logits."""
    assert expected.shape == found.shape
    assert np.isfinite(found).all()
    log_p, log_q = (torch.log_softmax(torch.from_numpy(x).double(), dim=-1) for x in (expected, found))
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
