"""The reference's Phi-3-small against a second implementation, written for this test from the published code.

transformers has no class for it. What is below goes head by head and block by block, in float64, and shares
nothing with the reference; onnxruntime's own SparseAttention is the third.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from edgephi.checkpoint.checkpoint import CheckpointWeights, open_checkpoint
from edgephi.reference.forward import final_hidden_states, logits
from tests.tiny_phi3small import UNUSED, TinySmall, tiny_phi3small_config, write_tiny_phi3small

Doubles = NDArray[np.float64]


class Second:
    """`Phi3SmallForCausalLM`, as its published modules compute it."""

    def __init__(self, folder: Path, tiny: TinySmall) -> None:
        self.config = tiny_phi3small_config(tiny, 0)
        self.tensors = {
            name: np.asarray(tensor, np.float64)
            for name, tensor in load_file(folder / "model.safetensors").items()
        }

    def logits(self, ids: list[int]) -> Doubles:
        config = self.config
        x = self.tensors["model.embed_tokens.weight"][ids] * config["mup_embedding_multiplier"]
        for layer in range(config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            x = x + self.attention(self.norm(x, prefix + "input_layernorm"), layer)
            x = x + self.mlp(self.norm(x, prefix + "post_attention_layernorm"), prefix + "mlp.")
        x = self.norm(x, "model.final_layernorm")
        words: Doubles = x @ self.tensors["model.embed_tokens.weight"].T / config["mup_width_multiplier"]
        words[:, config["dummy_token_indices"]] = np.finfo(np.float32).min
        return words

    def norm(self, x: Doubles, name: str) -> Doubles:
        y = torch.nn.functional.layer_norm(
            torch.from_numpy(x),
            (x.shape[-1],),
            torch.from_numpy(self.tensors[name + ".weight"]),
            torch.from_numpy(self.tensors[name + ".bias"]),
            self.config["layer_norm_epsilon"],
        )
        return np.asarray(y.numpy(), np.float64)

    def linear(self, x: Doubles, name: str) -> Doubles:
        product: Doubles = x @ self.tensors[name + ".weight"].T + self.tensors[name + ".bias"]
        return product

    def mlp(self, x: Doubles, prefix: str) -> Doubles:
        both = self.linear(x, prefix + "up_proj")
        gelu, linear = both[..., ::2], both[..., 1::2]
        limit = self.config["gegelu_limit"]
        gelu = np.minimum(gelu, limit)
        linear = np.clip(linear, -limit, limit)
        return self.linear(gelu / (1 + np.exp(-1.702 * gelu)) * (linear + 1), prefix + "down_proj")

    def attention(self, x: Doubles, layer: int) -> Doubles:
        config, name = self.config, f"model.layers.{layer}.self_attn."
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        size, group = config["hidden_size"] // heads, heads // kv_heads
        fused = self.linear(x, name + "query_key_value").reshape(len(x), kv_heads, group + 2, size)
        answers = np.zeros((len(x), heads, size))
        for head in range(heads):
            own = fused[:, head // group]
            query, key = (self.rotated(each) for each in (own[:, head % group], own[:, group]))
            scores = query @ key.T * config["mup_attn_multiplier"] / size
            scores[~self.seen(len(x), head, layer)] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            answers[:, head] = weights / weights.sum(axis=1, keepdims=True) @ own[:, group + 1]
        return self.linear(answers.reshape(len(x), -1), name + "dense")

    def rotated(self, x: Doubles) -> Doubles:
        """[tokens, size], the dimensions of the two halves in pairs."""
        config, half = self.config, x.shape[1] // 2
        frequencies = config["rope_embedding_base"] ** (-np.arange(half) / half)
        magnitude = 1.0
        if "rope_scaling" in config:
            kind = "long" if len(x) > config["original_max_position_embeddings"] else "short"
            frequencies = frequencies / config["rope_scaling"][f"{kind}_factor"]
            magnitude = config["rope_scaling"][f"{kind}_mscale"]
        turn = np.exp(1j * np.arange(len(x))[:, None] * frequencies) * magnitude
        turned = (x[:, :half] + 1j * x[:, half:]) * turn
        return np.concatenate([turned.real, turned.imag], axis=1)

    def seen(self, tokens: int, head: int, layer: int) -> NDArray[np.bool_]:
        """[queries, keys], block by block."""
        config = self.config
        every, block = config["dense_attention_every_n_layers"], config["blocksparse_block_size"]
        stride, near = config["blocksparse_vert_stride"], config["blocksparse_num_local_blocks"]
        sliding = max(1, int(stride / config["num_attention_heads"]))
        shift = 0 if config["blocksparse_homo_head_pattern"] else head * sliding
        seen = np.zeros((tokens, tokens), bool)
        for query in range(0, tokens, block):
            for key in range(0, query + block, block):
                dense = (layer + 1) % every == 0
                local = query // block - key // block < near
                vertical = (key // block + shift + 1) % stride == 0
                seen[query : query + block, key : key + block] = dense or local or vertical
        for query in range(tokens):
            seen[query, query + 1 :] = False
        return seen


def both(folder: Path, count: int, **options: Any) -> tuple[Doubles, NDArray[np.float32]]:
    tiny = TinySmall(dtype="F32", **options)
    write_tiny_phi3small(folder, tiny)
    ids = [int(token) for token in np.random.default_rng(count).integers(0, 500, count)]
    weights = CheckpointWeights(open_checkpoint(folder, id="tiny", revision="local"))
    [hidden] = final_hidden_states([weights], [ids])
    return Second(folder, tiny).logits(ids), logits(weights, hidden)


def divergence(p: Doubles, q: NDArray[np.float32]) -> float:
    log_p, log_q = (torch.log_softmax(torch.from_numpy(each).double(), dim=-1) for each in (p, q))
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (1, {}),
        (17, {}),
        (512, {}),
        (1023, {"layers": 2}),
        (1024, {"layers": 2}),
        (1025, {"layers": 2}),  # the first of which a query does not see all
        pytest.param(2100, {"layers": 2}, marks=pytest.mark.slow),
        pytest.param(4095, {"layers": 2, "heads": 4}, marks=pytest.mark.slow),
        pytest.param(4097, {"layers": 2, "heads": 4}, marks=pytest.mark.slow),
        (63, {"block": 16, "local_blocks": 2}),
        (300, {"block": 16, "local_blocks": 2}),
        (300, {"block": 16, "local_blocks": 2, "same_for_all_heads": True}),
        (300, {"block": 16, "local_blocks": 3, "stride": 16, "heads": 4, "dense_every": 3}),
        (150, {"block": 16, "local_blocks": 2, "dense_every": 1}),
        (64, {"longrope": True, "original_context": 64, "context": 256}),
        (65, {"longrope": True, "original_context": 64, "context": 256}),
    ],
)
def test_it_says_what_the_second_implementation_says(
    tmp_path: Path, count: int, options: dict[str, Any]
) -> None:
    theirs, ours = both(tmp_path / "tiny", count, **options)
    assert divergence(theirs, ours) < 1e-6
    assert (ours[:, UNUSED] == np.finfo(np.float32).min).all()


def test_a_dense_model_would_say_something_else(tmp_path: Path) -> None:
    """The tests above would see nothing if it did not matter which keys are seen."""
    sparse, _ = both(tmp_path / "sparse", 300, block=16, local_blocks=2)
    _, dense = both(tmp_path / "dense", 300, block=16, local_blocks=2, dense_every=1)
    assert divergence(sparse, dense) > 1e-2
