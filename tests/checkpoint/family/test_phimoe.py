"""What a config.json of a Phi-3.5-MoE means, where its tensors are, and what of it is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PhimoeForCausalLM

from edgephi.checkpoint.architecture import LayerNorm, MixtureOfExperts
from edgephi.checkpoint.checkpoint import open_checkpoint, read_rows
from edgephi.checkpoint.config import load_architecture, read_architecture
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.errors import BadCheckpointError, NotSupportedError
from tests.tiny_phimoe import MAGNITUDE, TinyExperts, tiny_phimoe_config, write_tiny_phimoe

CONFIG = tiny_phimoe_config(TinyExperts(), 500)

PUBLISHED = tiny_phimoe_config(
    TinyExperts(hidden=4096, layers=32, heads=32, kv_heads=8, ffn=6400, vocab=32064), 32000
)
"""The published sizes."""


def test_the_published_model() -> None:
    found = read_architecture(PUBLISHED, where="config.json")
    assert found.norm == LayerNorm(1e-5)
    assert found.feed_forward == MixtureOfExperts(width=6400, experts=16, chosen=2, jitter=0.01)
    assert found.attention.rotary.magnitude == MAGNITUDE
    assert found.attention.biases
    assert found.head_bias
    assert found.parameters == 41_873_153_344
    assert found.active_parameters == 6_640_999_744


def test_transformers_saves_the_same_architecture(tmp_path: Path) -> None:
    folder = write_tiny_phimoe(tmp_path / "tiny")
    PhimoeForCausalLM.from_pretrained(folder).config.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert "rope_parameters" in saved
    generation = "generation_config.json"
    (tmp_path / "saved" / generation).write_bytes((folder / generation).read_bytes())
    assert load_architecture(tmp_path / "saved") == load_architecture(folder)


def test_experts_are_one_stack(tmp_path: Path) -> None:
    folder = write_tiny_phimoe(tmp_path / "tiny", layers=1, dtype="F32")
    checkpoint = open_checkpoint(folder, id="tiny", revision="local")
    layer = PhimoeForCausalLM.from_pretrained(folder, dtype=torch.float32).model.layers[0].mlp
    theirs = {
        Role.EXPERTS_GATE_UP: layer.experts.gate_up_proj,
        Role.EXPERTS_DOWN: layer.experts.down_proj,
    }
    for role, stack in theirs.items():
        experts, rows, columns = stack.shape
        ours = read_rows(checkpoint, ModelTensor(role, 0), 0, experts * rows)
        assert np.array_equal(ours.reshape(experts, rows, columns), stack.detach().numpy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_bias": False}, "attention_bias: edgephi supports True, found False"),
        ({"hidden_act": "gelu"}, "hidden_act: edgephi supports 'silu', found 'gelu'"),
        (
            {"partial_rotary_factor": 0.5, "rope_scaling": None},
            "partial_rotary_factor: edgephi supports 1.0, found 0.5",
        ),
        ({"num_experts_per_tok": 4}, "num_experts_per_tok: edgephi supports 2, found 4"),
    ],
)
def test_what_computes_something_else_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(NotSupportedError, match=message):
        read_architecture({**CONFIG, **change}, where="config.json")


@pytest.mark.parametrize(
    "change",
    [
        {"num_local_experts": 1},
        {"num_local_experts": 0},
        {"router_jitter_noise": -1},
        {"intermediate_size": "6"},
    ],
)
def test_what_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadCheckpointError, match=next(iter(change))):
        read_architecture({**CONFIG, **change}, where="config.json")


def test_a_config_with_more_experts_than_there_are(tmp_path: Path) -> None:
    folder = write_tiny_phimoe(tmp_path / "tiny", layers=1, experts=3)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_local_experts": 4}))
    with pytest.raises(BadCheckpointError, match=r"moe\.gate\.weight: expected shape \[4, 256\]"):
        open_checkpoint(folder, id="tiny", revision="local")
