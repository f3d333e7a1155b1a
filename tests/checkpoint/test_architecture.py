"""What a config.json means, and everything in one that is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from edgephi.checkpoint.architecture import load_architecture, read_architecture
from edgephi.errors import BadCheckpointError, NotSupportedError
from tests.tiny_checkpoint import SHAPES, tiny_config, tiny_weights

MINI_4K: dict[str, Any] = {
    "model_type": "phi3",
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "pad_token_id": 32000,
}
MINI_128K: dict[str, Any] = {
    **MINI_4K,
    "max_position_embeddings": 131072,
    "sliding_window": 262144,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0 + i / 24 for i in range(48)],
        "long_factor": [1.0 + i * 4 / 3 for i in range(48)],
    },
}
PHI_4_MINI: dict[str, Any] = {
    **MINI_128K,
    "vocab_size": 200064,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.75,
    "tie_word_embeddings": True,
    "lm_head_bias": False,
    "mlp_bias": False,
    "bos_token_id": 199999,
    "eos_token_id": 199999,
    "pad_token_id": 199999,
}
CONFIGS = {
    "mini-4k": MINI_4K,
    "mini-128k": MINI_128K,
    "phi-4-mini": PHI_4_MINI,
    "phi-4": {**MINI_4K, "max_position_embeddings": 16384, "rope_theta": 250000.0, "num_key_value_heads": 8},
}


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def with_rope(**changes: Any) -> dict[str, Any]:
    return {**MINI_128K, "rope_scaling": {**MINI_128K["rope_scaling"], **changes}}


class TestReading:
    def test_mini_4k(self) -> None:
        found = read_architecture(
            MINI_4K, where="config.json", generation_config={"eos_token_id": [32007, 32001, 32000]}
        )
        assert (found.heads, found.kv_heads, found.head_size, found.qkv_rows) == (32, 32, 96, 9216)
        assert (found.context, found.sliding_window) == (4096, 2047)
        assert found.eos_token_ids == (32007, 32001, 32000)
        assert found.parameters == 3_821_079_552
        assert found.rotary.magnitude == 1.0

    def test_phi_4_mini(self) -> None:
        found = read_architecture(PHI_4_MINI, where="config.json")
        assert (found.head_size, found.rotary.size) == (128, 96)
        assert found.head_name == "model.embed_tokens.weight"
        assert found.eos_token_ids == (199999,)

    def test_tensor_shapes_are_those_that_transformers_saves(self) -> None:
        for shape in SHAPES.values():
            ids = {"<|endoftext|>": 500}
            shapes = read_architecture(tiny_config(shape, ids), where="config.json").tensor_shapes()
            assert shapes == {name: weight.shape for name, weight in tiny_weights(shape).items()}

    def test_su_is_the_old_name_of_longrope(self) -> None:
        assert read_architecture(with_rope(type="su"), where="") == read_architecture(MINI_128K, where="")

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
        assert read_architecture({**MINI_4K, "sliding_window": None}, where="").sliding_window is None
        assert read_architecture(without(MINI_4K, "sliding_window"), where="").sliding_window is None

    def test_published_configs(self, shared: Path) -> None:
        refused = {"phi-3-small-8k", "phi-3.5-moe", "phi-3.5-vision"}
        for folder in sorted(file.parent for file in (shared / "configs").glob("*/config.json")):
            if folder.name in refused:
                with pytest.raises(NotSupportedError, match="is not supported yet"):
                    load_architecture(folder)
            else:
                found = load_architecture(folder)
                stops = (199999, 200020) if folder.name == "phi-4-mini" else (32000, 32001, 32007)
                assert found.eos_token_ids == stops


class TestRotaryEmbedding:
    """Against what transformers computes from the same config."""

    @pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
    @pytest.mark.parametrize("length", [100, 4096, 4097, 100_000])
    def test_frequencies_and_magnitude(self, config: dict[str, Any], length: int) -> None:
        rotary = read_architecture(config, where="").rotary
        theirs = Phi3Config(**json.loads(json.dumps(config)))
        if config["rope_scaling"]:
            expected, magnitude = ROPE_INIT_FUNCTIONS["longrope"](theirs, torch.device("cpu"), seq_len=length)
        else:
            expected, magnitude = Phi3RotaryEmbedding.compute_default_rope_parameters(theirs)
        found = rotary.inverse_frequencies(long=rotary.uses_long_factors(length))
        torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-6, atol=0)
        assert rotary.magnitude == pytest.approx(magnitude, rel=1e-12)

    @pytest.mark.parametrize("extra", [{"factor": 8.0}, {"attention_factor": 1.5}, {"factor": 1.0}])
    def test_explicit_magnitudes(self, extra: dict[str, float]) -> None:
        config = with_rope(**extra)
        _, magnitude = ROPE_INIT_FUNCTIONS["longrope"](Phi3Config(**json.loads(json.dumps(config))), None)
        assert read_architecture(config, where="").rotary.magnitude == pytest.approx(magnitude, rel=1e-12)

    def test_equal_mscales_are_the_magnitude(self) -> None:
        config = with_rope(short_mscale=1.25, long_mscale=1.25)
        assert read_architecture(config, where="").rotary.magnitude == 1.25


class TestNotSupported:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"model_type": "phimoe"}, r"Phi-3.5-MoE \(mixture of experts\) is not supported yet"),
            ({"model_type": "phi4mm"}, "Phi-4-multimodal"),
            ({"model_type": "llama"}, "model_type: edgephi supports 'phi3', found 'llama'"),
            ({"attention_bias": True}, "attention_bias"),
            ({"lm_head_bias": True}, "lm_head_bias"),
            ({"mlp_bias": True}, "mlp_bias"),
            ({"hidden_act": "gelu"}, "hidden_act"),
            ({"head_dim": 64}, "head_dim"),
            ({"quantization_config": {"bits": 4}}, "quantised already"),
            ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "yarn"),
            ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "linear"),
        ],
    )
    def test_is_refused_by_name(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(NotSupportedError, match=message):
            read_architecture({**MINI_4K, **changes}, where="config.json")

    def test_different_mscales(self) -> None:
        with pytest.raises(NotSupportedError, match="long_mscale"):
            read_architecture(with_rope(short_mscale=1.0, long_mscale=1.2), where="config.json")


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

    @pytest.mark.parametrize("table", ["short_factor", "long_factor"])
    @pytest.mark.parametrize(
        "value", [None, [1.0] * 47, [1.0] * 47 + [float("nan")], [0.0] * 48, [True] * 48]
    )
    def test_longrope_factors(self, table: str, value: object) -> None:
        with pytest.raises(BadCheckpointError, match=table):
            read_architecture(with_rope(**{table: value}), where="config.json")

    def test_longrope_needs_the_original_context(self) -> None:
        with pytest.raises(BadCheckpointError, match="original_max_position_embeddings"):
            read_architecture(without(MINI_128K, "original_max_position_embeddings"), where="config.json")

    @pytest.mark.parametrize("text", ["", "{", "[]", "3", "\x00", "[" * 100_000])
    def test_not_a_json_object(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(BadCheckpointError, match=r"config.json: expected"):
            load_architecture(tmp_path)

    def test_no_config(self, tmp_path: Path) -> None:
        with pytest.raises(BadCheckpointError, match=r"config.json: expected this file, found none"):
            load_architecture(tmp_path)
