"""What a config.json of a Phi-3 means, and everything in one that is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import Phi3Config

from edgephi.checkpoint.config import load_architecture, read_architecture
from edgephi.checkpoint.family.phi3 import sources
from edgephi.checkpoint.roles import EMBEDDING
from edgephi.errors import BadCheckpointError, NotSupportedError
from tests.checkpoint.configs import CONFIGS, MINI_4K, PHI_4_MINI, without
from tests.tiny_checkpoint import SHAPES, tiny_config, tiny_weights


class TestReading:
    def test_mini_4k(self) -> None:
        found = read_architecture(
            MINI_4K, where="config.json", generation_config={"eos_token_id": [32007, 32001, 32000]}
        )
        attention = found.attention
        assert (attention.heads, attention.kv_heads) == (32, 32)
        assert (attention.head_size, attention.rows) == (96, 9216)
        assert (found.context, attention.window) == (4096, 2047)
        assert found.eos_token_ids == (32007, 32001, 32000)
        assert found.parameters == 3_821_079_552
        assert attention.rotary.magnitude == 1.0

    def test_phi_4_mini(self) -> None:
        found = read_architecture(PHI_4_MINI, where="config.json")
        assert (found.attention.head_size, found.attention.rotary.size) == (128, 96)
        assert found.head == EMBEDDING
        assert found.eos_token_ids == (199999,)

    def test_names_and_shapes_are_those_that_transformers_saves(self) -> None:
        for shape in SHAPES.values():
            config = tiny_config(shape, {"<|endoftext|>": 500})
            found = read_architecture(config, where="config.json")
            by_name = {
                source.tensor: found.tensor_shapes()[tensor] for tensor, (source,) in sources(found).items()
            }
            assert by_name == {name: weight.shape for name, weight in tiny_weights(shape).items()}

    @pytest.mark.parametrize("name", list(CONFIGS))
    def test_keys_as_transformers_5_writes_them(self, name: str, tmp_path: Path) -> None:
        Phi3Config(**json.loads(json.dumps(CONFIGS[name]))).save_pretrained(tmp_path)
        assert "rope_parameters" in json.loads((tmp_path / "config.json").read_text())
        assert load_architecture(tmp_path) == read_architecture(CONFIGS[name], where="")

    def test_what_may_be_left_out(self) -> None:
        optional = ("num_key_value_heads", "rms_norm_eps", "rope_theta", "rope_scaling", "attention_bias")
        more = ("original_max_position_embeddings", "hidden_act", "tie_word_embeddings")
        expected = read_architecture(MINI_4K, where="")
        assert read_architecture(without(MINI_4K, *optional, *more), where="") == expected

    def test_no_sliding_window(self) -> None:
        for config in ({**MINI_4K, "sliding_window": None}, without(MINI_4K, "sliding_window")):
            assert read_architecture(config, where="").attention.window is None


class TestNotSupported:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"attention_bias": True}, "attention_bias"),
            ({"lm_head_bias": True}, "lm_head_bias"),
            ({"mlp_bias": True}, "mlp_bias"),
            ({"hidden_act": "gelu"}, "hidden_act"),
            ({"head_dim": 64}, "head_dim"),
        ],
    )
    def test_is_refused_by_name(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(NotSupportedError, match=message):
            read_architecture({**MINI_4K, **changes}, where="config.json")


class TestBadConfig:
    @pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"])
    @pytest.mark.parametrize("value", [0, -1, 1.5, "4096", True, [1], 1 << 60, float("nan")])
    def test_sizes(self, key: str, value: object) -> None:
        with pytest.raises(BadCheckpointError, match=f"config.json: {key}: expected a whole number"):
            read_architecture({**MINI_4K, key: value}, where="config.json")

    @pytest.mark.parametrize(
        "key", ["model_type", "vocab_size", "num_attention_heads", "max_position_embeddings", "hidden_size"]
    )
    def test_missing_keys(self, key: str) -> None:
        with pytest.raises(BadCheckpointError, match=key):
            read_architecture(without(MINI_4K, key), where="config.json")

    @pytest.mark.parametrize(
        "changes",
        [
            {"hidden_size": 3071},
            {"num_key_value_heads": 5},
            {"rms_norm_eps": 0},
            {"rms_norm_eps": float("inf")},
            {"rope_theta": "10000"},
            {"rope_theta": float("nan")},
            {"partial_rotary_factor": 1.5},
            {"partial_rotary_factor": 0.001},
            {"sliding_window": 0},
            {"sliding_window": False},
            {"tie_word_embeddings": 1},
            {"attention_bias": "no"},
            {"eos_token_id": 32064},
            {"eos_token_id": [-1]},
            {"bos_token_id": "1"},
            {"rope_scaling": "longrope"},
        ],
        ids=str,
    )
    def test_contradictions_and_wrong_types(self, changes: dict[str, Any]) -> None:
        with pytest.raises(BadCheckpointError, match=f"{next(iter(changes))}: expected .*, found "):
            read_architecture({**MINI_4K, **changes}, where="config.json")
