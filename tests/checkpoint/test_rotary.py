"""The rotary embedding of a config: its frequencies and magnitude, and what is refused."""

import json
from typing import Any

import pytest
import torch
from transformers import Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from edgephi.checkpoint.config import read_architecture
from edgephi.errors import BadCheckpointError, NotSupportedError
from tests.checkpoint.configs import CONFIGS, MINI_4K, MINI_128K, with_rope, without


class TestRotaryEmbedding:
    """Against what transformers computes from the same config."""

    @pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
    @pytest.mark.parametrize("length", [100, 4096, 4097, 100_000])
    def test_frequencies_and_magnitude(self, config: dict[str, Any], length: int) -> None:
        rotary = read_architecture(config, where="").attention.rotary
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
        assert read_architecture(config, where="").attention.rotary.magnitude == pytest.approx(
            magnitude, rel=1e-12
        )

    def test_equal_mscales_are_the_magnitude(self) -> None:
        config = with_rope(short_mscale=1.25, long_mscale=1.25)
        assert read_architecture(config, where="").attention.rotary.magnitude == 1.25

    def test_su_is_the_old_name_of_longrope(self) -> None:
        assert read_architecture(with_rope(type="su"), where="") == read_architecture(MINI_128K, where="")


class TestRefusals:
    @pytest.mark.parametrize(
        "rope", [{"type": "yarn", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}], ids=str
    )
    def test_other_kinds_are_refused_by_name(self, rope: dict[str, Any]) -> None:
        kind = rope.get("type") or rope["rope_type"]
        with pytest.raises(NotSupportedError, match=kind):
            read_architecture({**MINI_4K, "rope_scaling": rope}, where="config.json")

    def test_different_mscales(self) -> None:
        with pytest.raises(NotSupportedError, match="long_mscale"):
            read_architecture(with_rope(short_mscale=1.0, long_mscale=1.2), where="config.json")

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
