"""mlx-lm's Phi-3.5-MoE with the model's own routing.

mlx-lm before 0.32.1 takes a softmax of the two best experts' scores, whose weights sum to 1. The model was
trained with sparsemixer (arXiv:2409.12136), whose weights are mostly near 1 each: `sparsemixer` here.
"""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn

from edgephi.runtime.engines.mlx_lm.package import engine_module

_theirs: Any = engine_module("phimoe")
_experts: Any = engine_module("switch_layers")


@dataclass
class MlxPhimoeArguments(_theirs.ModelArgs):  # type: ignore[misc]
    """mlx-lm's, and the noise that older ones of it do not know."""

    router_jitter_noise: float = 0.01


class MlxPhimoe(_theirs.Model):  # type: ignore[misc]
    """mlx-lm's model with our block of experts in every layer."""

    def __init__(self, args: MlxPhimoeArguments) -> None:
        super().__init__(args)
        for layer in self.layers:
            layer.block_sparse_moe = SparseMixerBlock(args)

    def head(self, hidden: Any) -> Any:
        """Logits [..., vocabulary] of hidden states [..., hidden]."""
        return self.lm_head(hidden)


class SparseMixerBlock(nn.Module):  # type: ignore[misc]
    """The two experts that the router chooses, each times its weight, added."""

    def __init__(self, args: MlxPhimoeArguments) -> None:
        super().__init__()
        self.band = 2 * args.router_jitter_noise
        self.gate = nn.Linear(args.hidden_size, args.num_local_experts, bias=False)
        self.switch_mlp = _experts.SwitchGLU(args.hidden_size, args.intermediate_size, args.num_local_experts)

    def __call__(self, inputs: Any) -> Any:
        """Of inputs [..., hidden], as many outputs."""
        # In float32 whatever the rest: two scores that are nearly the same must not become the same.
        scores = inputs.astype(mx.float32) @ self.gate.weight.astype(mx.float32).T
        chosen, weights = sparsemixer(scores, self.band)
        outputs = self.switch_mlp(inputs, chosen)  # [..., 2, hidden]
        return (outputs * weights[..., None].astype(outputs.dtype)).sum(axis=-2)


def sparsemixer(scores: Any, band: float) -> tuple[Any, Any]:
    """The two experts of each token, and their weights: both [..., 2], of scores [..., experts].

    An expert's weight is its share of a softmax over those not chosen before it whose scores lie within
    `band` of its own, relative to the larger magnitude of the two. The first of equal scores is chosen.
    """
    first, weight = _best(scores, scores, band)
    others = mx.put_along_axis(scores, first, mx.array(-mx.inf, scores.dtype), axis=-1)
    second, its_weight = _best(scores, others, band)
    return mx.concatenate([first, second], axis=-1), mx.concatenate([weight, its_weight], axis=-1)


def _best(scores: Any, candidates: Any, band: float) -> tuple[Any, Any]:
    """The best candidate and its weight, both [..., 1]; `candidates` are scores, -inf for the others."""
    best = mx.argmax(candidates, axis=-1, keepdims=True)
    top = mx.take_along_axis(candidates, best, axis=-1)
    distance = (top - scores) / mx.maximum(mx.abs(scores), top)
    # 0 / 0 is not a number, and not outside.
    shares = mx.where(distance > band, 0, mx.exp(candidates - top))
    return best, 1 / shares.sum(axis=-1, keepdims=True)


CLASSES = (MlxPhimoe, MlxPhimoeArguments)
