"""Adapters that PEFT itself makes and saves, for tiny checkpoints, and what it merges them to."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

Weights = Mapping[str, npt.NDArray[np.float32]]

FUSED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
SPLIT = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def save_adapter(base: Path, folder: Path, *, seed: int = 0, split: bool = False, **options: Any) -> Path:
    """Have PEFT save an adapter for `base` in `folder`, with random numbers for all that is trained.

    `split`: trained on the model under Llama's names. `options` are those of `LoraConfig`.
    """
    torch.manual_seed(seed)
    options = {"r": 4, "lora_alpha": 8, "target_modules": list(SPLIT if split else FUSED), **options}
    model = peft.get_peft_model(_model(base, split=split), peft.LoraConfig(task_type="CAUSAL_LM", **options))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def save_exchange(base: Path, folder: Path, one: int, other: int) -> Path:
    """Have PEFT save an adapter of the head that gives each of two tokens the other one's logit."""
    model = peft.get_peft_model(
        _model(base, split=False),
        peft.LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=2, target_modules=["lm_head"]),
    )
    head = model.base_model.model.lm_head
    rows = head.base_layer.weight[[one, other]]  # [2, hidden]
    with torch.no_grad():
        head.lora_A["default"].weight[:] = torch.stack([rows[1] - rows[0], rows[0] - rows[1]])
        head.lora_B["default"].weight[[one, other], [0, 1]] = 1
    model.save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, *adapters: Path, split: bool = False) -> Weights:
    """The weights of `base` with adapters that PEFT merges in their order, under Phi-3's names."""
    model = _model(base, split=split)
    for adapter in adapters:
        model = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    found = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    return _fused(found) if split else found


def save_as_llama(base: Path, folder: Path) -> Path:
    """The checkpoint of `base` as transformers saves it as one of Llama's, with the same tokenizer."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors*", "*config.json"))
    _model(base, split=True).save_pretrained(folder)
    shutil.copy(base / "tokenizer_config.json", folder)
    return folder


def _model(base: Path, *, split: bool) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return _as_llama(model) if split else model


def _as_llama(model: Any) -> Any:
    """The same model as one of Llama's, whose projections are apart."""
    config = model.config
    kept = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "max_position_embeddings"),
    )
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**{key: getattr(config, key) for key in kept})
    )
    head = config.hidden_size // config.num_attention_heads
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    weights = {}
    for name, tensor in model.state_dict().items():
        if "qkv_proj" in name:
            for part, rows in zip("qkv", tensor.split([queries, keys, keys]), strict=True):
                weights[name.replace("qkv_proj", f"{part}_proj")] = rows
        elif "gate_up_proj" in name:
            for part, rows in zip(("gate", "up"), tensor.chunk(2), strict=True):
                weights[name.replace("gate_up_proj", f"{part}_proj")] = rows
        else:
            weights[name] = tensor
    llama.load_state_dict(weights)
    return llama


def _fused(weights: Weights) -> Weights:
    found = dict(weights)
    for name in weights:
        for fused, parts in (
            ("qkv_proj", ("q_proj", "k_proj", "v_proj")),
            ("gate_up_proj", ("gate_proj", "up_proj")),
        ):
            if f".{parts[0]}." in name:
                names = [name.replace(parts[0], part) for part in parts]
                found[name.replace(parts[0], fused)] = np.concatenate([found.pop(each) for each in names])
    return found
