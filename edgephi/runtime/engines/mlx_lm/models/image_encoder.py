"""A CLIP vision transformer up to the layer before its last, and the projection of a Phi-3-vision.

The names of the tensors are those of our artifacts. It imports MLX, so it is imported with an image.

Sources: `modeling_clip.py` of transformers; the published `modeling_phi3_v.py`; MLX's own operators.
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from mlx import nn

_COLOURS = 3


class MlxImageAttention(nn.Module):  # type: ignore[misc]
    """Attention in which every patch sees every other."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (hidden // heads) ** -0.5
        self.qkv_proj = nn.Linear(hidden, 3 * hidden)
        self.out_proj = nn.Linear(hidden, hidden)

    def __call__(self, inputs: Any) -> Any:
        """Of inputs [batch, count, hidden], as many outputs."""
        batch, count, hidden = inputs.shape
        rows = self.qkv_proj(inputs).reshape(batch, count, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)
        found = mx.fast.scaled_dot_product_attention(rows[0], rows[1], rows[2], scale=self.scale)
        return self.out_proj(found.transpose(0, 2, 1, 3).reshape(batch, count, hidden))


class MlxImageFeedForward(nn.Module):  # type: ignore[misc]
    """fc2(x * sigmoid(1.702 x)) of what fc1 makes."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden, width)
        self.fc2 = nn.Linear(width, hidden)

    def __call__(self, inputs: Any) -> Any:
        """Of inputs [..., hidden], as many outputs."""
        wide = self.fc1(inputs)
        return self.fc2(wide * mx.sigmoid(1.702 * wide))


class MlxImageLayer(nn.Module):  # type: ignore[misc]
    """Attention and feed-forward, each after a norm and added to what comes in."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        hidden, epsilon = config["hidden_size"], config["epsilon"]
        self.self_attn = MlxImageAttention(hidden, config["heads"])
        self.mlp = MlxImageFeedForward(hidden, config["width"])
        self.layer_norm1 = nn.LayerNorm(hidden, eps=epsilon)
        self.layer_norm2 = nn.LayerNorm(hidden, eps=epsilon)

    def __call__(self, inputs: Any) -> Any:
        """Hidden states [batch, count, hidden] after the layer."""
        inputs = inputs + self.self_attn(self.layer_norm1(inputs))
        return inputs + self.mlp(self.layer_norm2(inputs))


class MlxImageEncoder(nn.Module):  # type: ignore[misc]
    """Tiles to tokens of the decoder. `config` is what `image_encoder.json` says."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        hidden, patch, projected = config["hidden_size"], config["patch"], config["projected_size"]
        self.side = config["tile"] // patch // 2  # tokens
        self.patch_embedding = nn.Conv2d(_COLOURS, hidden, patch, stride=patch, bias=False)
        self.class_embedding = mx.zeros(hidden)
        self.position_embedding = nn.Embedding(4 * self.side**2 + 1, hidden)
        self.pre_layrnorm = nn.LayerNorm(hidden, eps=config["epsilon"])
        self.layers = [MlxImageLayer(config) for _ in range(config["layers"])]
        self.sub_GN = mx.zeros((1, 1, 1, 4 * hidden))
        self.glb_GN = mx.zeros((1, 1, 4 * hidden))
        self.img_projection = [nn.Linear(4 * hidden, projected), nn.GELU(), nn.Linear(projected, projected)]

    def __call__(self, tiles: Any) -> Any:
        """Tiles [batch, tile, tile, 3] as tokens [batch, side * side, projected]."""
        patches = self.patch_embedding(tiles.astype(self.class_embedding.dtype))
        batch, _, _, hidden = patches.shape
        first = mx.broadcast_to(self.class_embedding, (batch, 1, hidden))
        states = mx.concatenate([first, patches.reshape(batch, -1, hidden)], axis=1)
        states = self.pre_layrnorm(states + self.position_embedding.weight)
        for layer in self.layers:
            states = layer(states)
        side = self.side
        squares = states[:, 1:].reshape(batch, side, 2, side, 2, hidden).transpose(0, 1, 3, 2, 4, 5)
        return self._projected(squares.reshape(batch, side * side, 4 * hidden))

    def separators(self) -> Any:
        """What ends a line and what stands between the parts of an image, [2, projected]."""
        return self._projected(mx.stack([self.sub_GN.reshape(-1), self.glb_GN.reshape(-1)]))

    def _projected(self, merged: Any) -> Any:
        for part in self.img_projection:
            merged = part(merged)
        return merged
