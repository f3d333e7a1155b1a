"""Llama's and Mistral's names for the family's models: what transformers computes of them, we compute."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from edgephi.checkpoint.checkpoint import Checkpoint, CheckpointWeights, open_checkpoint
from edgephi.checkpoint.config import load_architecture, read_architecture
from edgephi.errors import BadCheckpointError, NotSupportedError
from edgephi.reference.forward import final_hidden_states, logits
from tests.checkpoint.configs import CONFIGS, MINI_4K, without
from tests.tiny_checkpoint import TinyShape, tiny_weights, write_tiny_checkpoint, write_weights

CONFIG_TYPES: dict[str, type] = {"llama": LlamaConfig, "mistral": MistralConfig}
every_type = pytest.mark.parametrize("model_type", list(CONFIG_TYPES))
IDS = [int(each) for each in np.random.default_rng(5).integers(0, 500, 70)]
TINY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "eos_token_id": 2,
}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0 + i / 8 for i in range(8)],
    "long_factor": [1.5 + i for i in range(8)],
}


def saved_by_transformers(folder: Path, model_type: str, **changes: Any) -> Checkpoint:
    """A random model that transformers has written itself, beside a tokenizer of the family."""
    write_tiny_checkpoint(folder)
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (folder / name).unlink()
    torch.manual_seed(0)
    config = CONFIG_TYPES[model_type](**{**TINY, **changes})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return open_checkpoint(folder, id="tiny", revision="local")


@every_type
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rms_norm_eps": 1e-5},
        {"sliding_window": 16},
        {"tie_word_embeddings": True},
        {"max_position_embeddings": 4096, "original_max_position_embeddings": 32, "rope_scaling": LONGROPE},
    ],
    ids=lambda changes: ",".join(changes) or "plain",
)
def test_it_computes_what_transformers_computes(
    tmp_path: Path, model_type: str, changes: dict[str, Any]
) -> None:
    checkpoint = saved_by_transformers(tmp_path / "x", model_type, **changes)
    weights = CheckpointWeights(checkpoint)
    (hidden,) = final_hidden_states([weights], [IDS])
    found = logits(weights, hidden)
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "x", dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize("kind", ["full_attention", "sliding_attention"])
def test_a_mistral_with_layer_types_is_what_transformers_takes_it_for(tmp_path: Path, kind: str) -> None:
    saved_by_transformers(tmp_path / "x", "mistral", sliding_window=16)
    file = tmp_path / "x" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "layer_types": [kind] * 2}))
    checkpoint = open_checkpoint(tmp_path / "x", id="tiny", revision="local")
    assert checkpoint.architecture.attention.window == (16 if kind == "sliding_attention" else None)
    weights = CheckpointWeights(checkpoint)
    (hidden,) = final_hidden_states([weights], [IDS])
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "x", dtype=torch.float32, attn_implementation="eager"
    )
    assert type(model).__name__ == "MinistralForCausalLM"
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    np.testing.assert_allclose(logits(weights, hidden), expected, atol=2e-4)


def test_layers_of_two_kinds_are_refused() -> None:
    kinds = ["full_attention", "sliding_attention"] * 16
    with pytest.raises(NotSupportedError, match="layer_types"):
        read_architecture({**MINI_4K, "model_type": "mistral", "layer_types": kinds}, where="config.json")
    for wrong in ("full_attention", kinds[:-1], ["chunked"] * 32):
        with pytest.raises(BadCheckpointError, match="layer_types: expected full_attention or sliding"):
            read_architecture({**MINI_4K, "model_type": "mistral", "layer_types": wrong}, where="config.json")


@every_type
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "phi-4-mini"])
def test_the_same_model_is_described_by_the_same_numbers(model_type: str, name: str, tmp_path: Path) -> None:
    config = {**CONFIGS[name], "sliding_window": None}
    CONFIG_TYPES[model_type](**json.loads(json.dumps({**config, "model_type": model_type}))).save_pretrained(
        tmp_path
    )
    found, expected = load_architecture(tmp_path), read_architecture(config, where="")
    assert found.model_type == model_type
    assert found.tensor_shapes() == expected.tensor_shapes()
    assert (found.attention, found.norm, found.context) == (
        expected.attention,
        expected.norm,
        expected.context,
    )


def test_what_a_llama_leaves_out_is_what_transformers_takes() -> None:
    short = without(MINI_4K, "num_key_value_heads", "rms_norm_eps", "sliding_window")
    llama, mistral = (
        read_architecture({**short, "model_type": each}, where="") for each in ("llama", "mistral")
    )
    assert (llama.attention.kv_heads, mistral.attention.kv_heads) == (32, 8)
    assert (llama.attention.window, mistral.attention.window) == (None, 4096)
    assert llama.norm.epsilon == mistral.norm.epsilon == 1e-6


@every_type
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "attention_bias: edgephi supports False, found True"),
        ({"mlp_bias": True}, "mlp_bias: edgephi supports False, found True"),
        ({"head_dim": 128}, "head_dim: edgephi supports 96, found 128"),
        ({"hidden_act": "gelu"}, "hidden_act: edgephi supports 'silu', found 'gelu'"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            "rope_type: edgephi supports 'longrope', found 'llama3'",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: expected all 96 dimensions"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_no_phi_3_is_refused_by_name(model_type: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NotSupportedError, match=message):
        read_architecture({**MINI_4K, "model_type": model_type, **changes}, where="config.json")


def test_weights_with_the_names_of_the_other_type_are_told_apart(tmp_path: Path) -> None:
    saved_by_transformers(tmp_path / "x", "llama")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    (tmp_path / "x" / "config.json").write_text(json.dumps({**config, "model_type": "phi3"}))
    with pytest.raises(BadCheckpointError) as caught:
        open_checkpoint(tmp_path / "x", id="tiny", revision="local")
    assert "expected the tensors of a 'phi3' by the config, found those of a 'llama'" in caught.value.message
    assert 'set "model_type" to "llama"' in (caught.value.hint or "")


def test_a_mixture_of_both_layouts_is_none(tmp_path: Path) -> None:
    shape = TinyShape(layers=1, hidden=64, ffn=96)
    write_tiny_checkpoint(tmp_path / "x", shape)
    weights = tiny_weights(shape)
    for name in [name for name in weights if "qkv_proj" in name]:
        rows = weights.pop(name)
        for letter, part in zip("qkv", np.split(rows, [64, 96]), strict=True):
            weights[name.replace("qkv_proj", f"{letter}_proj")] = part
    write_weights(tmp_path / "x", weights)
    with pytest.raises(BadCheckpointError) as caught:
        open_checkpoint(tmp_path / "x", id="tiny", revision="local")
    assert "self_attn.k_proj.weight as a 'llama' has it, and no model.layers.0.self_attn.qkv" in (
        caught.value.message
    )
