"""A tiny random Phi-3-vision, laid out as the published one: its names, its config keys, its LongRoPE.

Its tiles are small, so that an image is a few dozen tokens. The encoder's last layer is there, as published,
and nothing reads it: its weights are so large that a model which did would show.
"""

import dataclasses
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.tiny_checkpoint import (
    PHI_3_5_LONG,
    PHI_3_5_SHORT,
    FloatKind,
    spread,
    write_with_phi_3_tokenizer,
)

Floats = NDArray[np.float32]

MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]

_PREFIX = "model.vision_embed_tokens."
_ENCODER = f"{_PREFIX}img_processor.vision_model."


@dataclass(frozen=True)
class TinyVision:
    """Options of one tiny model that sees; `image_layers` of its encoder count the last one too."""

    hidden: int = 256
    layers: int = 2
    heads: int = 4
    ffn: int = 512
    vocab: int = 512
    context: int = 131072
    original_context: int = 4096
    tile: int = 56
    patch: int = 14
    crops: int = 4
    image_hidden: int = 64
    image_layers: int = 3
    image_heads: int = 4
    image_ffn: int = 96
    dtype: FloatKind = "BF16"
    shards: int = 1
    seed: int = 0


def write_tiny_phi3_v(folder: Path, shape: TinyVision = TinyVision(), **options: Any) -> Path:
    """Write a checkpoint of `shape` with single `options` replaced; its tokenizer is a Phi-3's.

    Returns `folder`. The same arguments always write the same bytes.
    """
    tiny = dataclasses.replace(shape, **options)
    write_with_phi_3_tokenizer(
        folder,
        tiny.vocab,
        partial(tiny_phi3_v_config, tiny),
        tiny_phi3_v_weights(tiny),
        shards=tiny.shards,
        dtype=tiny.dtype,
    )
    preprocessor = {
        "auto_map": {"AutoProcessor": "processing_phi3_v.Phi3VProcessor"},
        "image_mean": MEAN,
        "image_processor_type": "Phi3VImageProcessor",
        "image_std": STD,
        "num_crops": tiny.crops,
        "num_img_tokens": (tiny.tile // tiny.patch // 2) ** 2,
        "processor_class": "Phi3VProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2))
    return folder


def tiny_phi3_v_config(tiny: TinyVision, end_of_text: int) -> dict[str, Any]:
    """The `config.json` of `tiny`, with the keys of the published model, and the encoder's size."""
    half = tiny.hidden // tiny.heads // 2
    return {
        "architectures": ["Phi3VForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "embd_layer": {
            "embedding_cls": "image",
            "hd_transform_order": "sub_glb",
            "projection_cls": "mlp",
            "use_hd_transform": True,
            "with_learnable_separator": True,
        },
        "embd_pdrop": 0.0,
        "eos_token_id": end_of_text,
        "hidden_act": "silu",
        "hidden_size": tiny.hidden,
        "img_processor": {
            "hidden_size": tiny.image_hidden,
            "image_dim_out": tiny.image_hidden,
            "image_size": tiny.tile,
            "intermediate_size": tiny.image_ffn,
            "model_name": "openai/clip-vit-large-patch14-336",
            "name": "clip_vision_model",
            "num_attention_heads": tiny.image_heads,
            "num_hidden_layers": tiny.image_layers,
            "num_img_tokens": (tiny.tile // tiny.patch // 2) ** 2,
            "patch_size": tiny.patch,
        },
        "intermediate_size": tiny.ffn,
        "max_position_embeddings": tiny.context,
        "model_type": "phi3_v",
        "num_attention_heads": tiny.heads,
        "num_hidden_layers": tiny.layers,
        "num_key_value_heads": tiny.heads,
        "original_max_position_embeddings": tiny.original_context,
        "pad_token_id": end_of_text,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "long_factor": spread(PHI_3_5_LONG, half),
            "short_factor": spread(PHI_3_5_SHORT, half),
            "type": "su",
        },
        "rope_theta": 10000.0,
        "sliding_window": 2 * tiny.context,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": tiny.vocab,
    }


def tiny_phi3_v_weights(tiny: TinyVision) -> dict[str, Floats]:
    """Random weights of `tiny`, float32, in the order of the published files."""
    random = np.random.default_rng(tiny.seed)

    def normal(*shape: int, std: float, mean: float = 0.0) -> Floats:
        return np.float32(mean) + random.standard_normal(shape, dtype=np.float32) * np.float32(std)

    def matrix(rows: int, columns: int) -> Floats:
        return normal(rows, columns, std=1.2 * columns**-0.5)

    hidden = tiny.hidden
    weights = {"model.embed_tokens.weight": normal(tiny.vocab, hidden, std=1.0)}
    for layer in range(tiny.layers):
        prefix = f"model.layers.{layer}."
        weights[f"{prefix}input_layernorm.weight"] = normal(hidden, std=0.1, mean=1.0)
        weights[f"{prefix}mlp.down_proj.weight"] = matrix(hidden, tiny.ffn)
        weights[f"{prefix}mlp.gate_up_proj.weight"] = matrix(2 * tiny.ffn, hidden)
        weights[f"{prefix}post_attention_layernorm.weight"] = normal(hidden, std=0.1, mean=1.0)
        weights[f"{prefix}self_attn.o_proj.weight"] = matrix(hidden, hidden)
        weights[f"{prefix}self_attn.qkv_proj.weight"] = matrix(3 * hidden, hidden)
    weights["model.norm.weight"] = normal(hidden, std=0.1, mean=1.0)
    seeing, patches = tiny.image_hidden, (tiny.tile // tiny.patch) ** 2
    weights[f"{_PREFIX}glb_GN"] = normal(1, 1, 4 * seeing, std=1.0)
    weights[f"{_ENCODER}embeddings.class_embedding"] = normal(seeing, std=1.0)
    weights[f"{_ENCODER}embeddings.patch_embedding.weight"] = normal(
        seeing, 3, tiny.patch, tiny.patch, std=(3 * tiny.patch**2) ** -0.5
    )
    weights[f"{_ENCODER}embeddings.position_embedding.weight"] = normal(patches + 1, seeing, std=0.5)
    for layer in range(tiny.image_layers):
        prefix = f"{_ENCODER}encoder.layers.{layer}."
        loud = 100 if layer == tiny.image_layers - 1 else 1
        for norm in ("layer_norm1", "layer_norm2"):
            weights[f"{prefix}{norm}.bias"] = normal(seeing, std=0.2)
            weights[f"{prefix}{norm}.weight"] = normal(seeing, std=0.2, mean=1.0)
        for name, rows, columns in (("fc1", tiny.image_ffn, seeing), ("fc2", seeing, tiny.image_ffn)):
            weights[f"{prefix}mlp.{name}.bias"] = normal(rows, std=0.2)
            weights[f"{prefix}mlp.{name}.weight"] = loud * matrix(rows, columns)
        for name in ("k_proj", "out_proj", "q_proj", "v_proj"):
            weights[f"{prefix}self_attn.{name}.bias"] = normal(seeing, std=0.2)
            weights[f"{prefix}self_attn.{name}.weight"] = matrix(seeing, seeing)
    for norm in ("post_layernorm", "pre_layrnorm"):
        weights[f"{_ENCODER}{norm}.bias"] = normal(seeing, std=0.2)
        weights[f"{_ENCODER}{norm}.weight"] = normal(seeing, std=0.2, mean=1.0)
    for name, columns in (("0", 4 * seeing), ("2", hidden)):
        weights[f"{_PREFIX}img_projection.{name}.bias"] = normal(hidden, std=0.2)
        weights[f"{_PREFIX}img_projection.{name}.weight"] = matrix(hidden, columns)
    weights[f"{_PREFIX}sub_GN"] = normal(1, 1, 1, 4 * seeing, std=1.0)
    weights["lm_head.weight"] = matrix(tiny.vocab, hidden)
    return weights
