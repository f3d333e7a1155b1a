"""`Phi3VForCausalLM`: Phi-3-vision and Phi-3.5-vision, a Phi-3-mini that reads images too.

The published config says nothing of the encoder's size, which is CLIP ViT-L/14-336 there. Another one stands
in `img_processor` under the names that transformers' CLIPVisionConfig has.
"""

import math
from dataclasses import replace
from typing import Any

from edgephi.bundle.image_tokens import LARGEST_TILE
from edgephi.checkpoint.architecture import Architecture, GatedSilu, RmsNorm
from edgephi.checkpoint.config_keys import LARGEST_DEPTH, ConfigKeys
from edgephi.checkpoint.family import phi3
from edgephi.checkpoint.images.image_encoder import MERGED_PATCHES, ImageEncoder
from edgephi.checkpoint.roles import BIASES, ModelTensor, Role
from edgephi.checkpoint.weights.source import Source

PARTS: frozenset[type] = frozenset({RmsNorm, GatedSilu, ImageEncoder})

_MODEL_TYPE = "phi3_v"
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_CROPS = 16

_LAYOUT: dict[str, object] = {
    "embedding_cls": "image",
    "hd_transform_order": "sub_glb",
    "projection_cls": "mlp",
    "use_hd_transform": True,
    "with_learnable_separator": True,
}
"""What `embd_layer` says of a model whose images are laid out as ours are."""

_PREFIX = "model.vision_embed_tokens."
_ENCODER = f"{_PREFIX}img_processor.vision_model."
_LAYER = f"{_ENCODER}encoder.layers.{{layer}}."
_MODULES = {
    Role.IMAGE_FIRST_NORM: f"{_ENCODER}pre_layrnorm",
    Role.IMAGE_ATTENTION_NORM: f"{_LAYER}layer_norm1",
    Role.IMAGE_ATTENTION_OUTPUT: f"{_LAYER}self_attn.out_proj",
    Role.IMAGE_FEED_FORWARD_NORM: f"{_LAYER}layer_norm2",
    Role.IMAGE_UP: f"{_LAYER}mlp.fc1",
    Role.IMAGE_DOWN: f"{_LAYER}mlp.fc2",
    Role.IMAGE_PROJECTION_UP: f"{_PREFIX}img_projection.0",
    Role.IMAGE_PROJECTION_DOWN: f"{_PREFIX}img_projection.2",
}
_NAMES = {
    Role.IMAGE_PATCHES: f"{_ENCODER}embeddings.patch_embedding.weight",
    Role.IMAGE_CLASS: f"{_ENCODER}embeddings.class_embedding",
    Role.IMAGE_POSITIONS: f"{_ENCODER}embeddings.position_embedding.weight",
    Role.IMAGE_LINE_END: f"{_PREFIX}sub_GN",
    Role.IMAGE_SEPARATOR: f"{_PREFIX}glb_GN",
    **{role: f"{module}.weight" for role, module in _MODULES.items()},
    **{bias: f"{_MODULES[role]}.bias" for role, bias in BIASES.items() if role in _MODULES},
}


def read(config: ConfigKeys, generation: ConfigKeys) -> Architecture:
    """The architecture that the two files describe; see `phi3.read`.

    How many crops an image has, and its mean and deviation, another file says: here they are the published
    ones of Phi-3-vision.
    """
    decoder = phi3.read(config, generation)
    layout = _table(config, "embd_layer")
    for key, expected in _LAYOUT.items():
        if layout.data.get(key, expected) != expected:
            layout.refuse(key, expected)
    encoder = _encoder(_table(config, "img_processor"), decoder.hidden_size)
    return replace(decoder, model_type=_MODEL_TYPE, image_encoder=encoder)


def _encoder(keys: ConfigKeys, projected_size: int) -> ImageEncoder:
    if keys.data.get("name", "clip_vision_model") != "clip_vision_model":
        keys.refuse("name", "clip_vision_model")
    if keys.data.get("hidden_act", "quick_gelu") != "quick_gelu":
        keys.refuse("hidden_act", "quick_gelu")
    if keys.data.get("layer_idx", -2) != -2:
        keys.refuse("layer_idx", -2)
    if keys.data.get("type_feature", "patch") != "patch":
        keys.refuse("type_feature", "patch")
    tile = keys.whole("image_size", default=336, largest=LARGEST_TILE)
    patch = keys.whole("patch_size", default=14, largest=LARGEST_TILE)
    if tile % (2 * patch):
        keys.fail("image_size", f"a multiple of {2 * patch}, twice the patch_size", tile)
    hidden_size = keys.whole("hidden_size", default=1024)
    if keys.whole("image_dim_out", default=hidden_size) != hidden_size:
        keys.fail("image_dim_out", f"hidden_size = {hidden_size}", keys.data["image_dim_out"])
    heads = keys.whole("num_attention_heads", default=16)
    if hidden_size % heads:
        keys.fail("hidden_size", f"a multiple of num_attention_heads = {heads}", hidden_size)
    tokens = (tile // patch) ** 2 // MERGED_PATCHES
    if keys.whole("num_img_tokens", default=tokens) != tokens:
        keys.fail("num_img_tokens", f"{tokens} for tiles of {tile} pixels", keys.data["num_img_tokens"])
    return ImageEncoder(
        tile=tile,
        patch=patch,
        crops=_CROPS,
        hidden_size=hidden_size,
        layers=keys.whole("num_hidden_layers", default=24, smallest=2, largest=LARGEST_DEPTH) - 1,
        heads=heads,
        width=keys.whole("intermediate_size", default=4096),
        epsilon=keys.number("layer_norm_eps", default=1e-5),
        projected_size=projected_size,
        mean=_MEAN,
        std=_STD,
    )


def _table(config: ConfigKeys, key: str) -> ConfigKeys:
    value: Any = config.data.get(key)
    if not isinstance(value, dict):
        config.fail(key, "a table", value)
    return ConfigKeys(value, f"{config.where}: {key}")


def sources(architecture: Architecture) -> dict[ModelTensor, tuple[Source, ...]]:
    """Where a checkpoint holds each tensor of the decoder: where a Phi-3 has it."""
    return phi3.sources(architecture)


def image_sources(encoder: ImageEncoder) -> dict[ModelTensor, tuple[Source, ...]]:
    """Where a checkpoint holds each tensor of the encoder: query, key and value apart."""
    found = {}
    for tensor, shape in encoder.tensor_shapes().items():
        if tensor.role in (Role.IMAGE_QUERY_KEY_VALUE, Role.IMAGE_QUERY_KEY_VALUE_BIAS):
            suffix = "weight" if tensor.role is Role.IMAGE_QUERY_KEY_VALUE else "bias"
            rows = encoder.hidden_size
            found[tensor] = tuple(
                Source(
                    f"{_LAYER.format(layer=tensor.layer)}self_attn.{name}_proj.{suffix}",
                    range(rows),
                    range(place * rows, (place + 1) * rows),
                )
                for place, name in enumerate("qkv")
            )
        else:
            name = _NAMES[tensor.role].format(layer=tensor.layer)
            rows = math.prod(shape[: max(1, len(shape) - 1)])  # numbered through
            found[tensor] = (Source(name, range(rows), range(rows)),)
    return found


def other_modules(architecture: Architecture) -> dict[str, tuple[ModelTensor, range]]:
    """Llama's modules; see `phi3.other_modules`."""
    return phi3.other_modules(architecture)


def is_known(name: str, architecture: Architecture) -> bool:
    """Whether a tensor that is no source says nothing new: what is computed after the layer that counts.

    And the embedding's second name, under which the image embedding has it.
    """
    encoder = architecture.image_encoder
    unused = (f"{_ENCODER}post_layernorm.", f"{_ENCODER}embeddings.position_ids", f"{_PREFIX}wte.weight")
    last = "" if encoder is None else _LAYER.format(layer=encoder.layers)
    return name.startswith((*unused, last)) if last else phi3.is_known(name, architecture)
