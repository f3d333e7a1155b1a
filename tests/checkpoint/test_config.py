"""Which checkpoints edgephi knows by their config.json, and what it says to all others."""

from pathlib import Path
from typing import Any

import pytest

from edgephi.checkpoint.config import load_architecture, read_architecture
from edgephi.errors import BadCheckpointError, NotSupportedError
from tests.checkpoint.configs import MINI_4K, MINI_128K
from tests.tiny_phi3small import TinySmall, tiny_phi3small_config
from tests.tiny_phimoe import TinyExperts, tiny_phimoe_config

EACH_KIND = [
    MINI_128K,
    tiny_phimoe_config(TinyExperts(), 500),
    tiny_phi3small_config(TinySmall(longrope=True), 500),
]


def test_published_configs(shared: Path) -> None:
    stops_of = {
        "phi-4-mini": (199999, 200020),
        "phi-3-small-8k": (100257, 100266),
        "phi-3.5-vision": (2,),  # its template says the others
    }
    for folder in sorted(file.parent for file in (shared / "configs").glob("*/config.json")):
        found = load_architecture(folder)
        assert found.eos_token_ids == stops_of.get(folder.name, (32000, 32001, 32007))
        assert (found.image_encoder is not None) == ("vision" in folder.name)


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("phi4mm", r"Phi-4-multimodal \(speech and image encoders\) is not supported yet"),
        (
            "gemma",
            "model_type: edgephi supports 'llama' or 'mistral' or 'phi3' or .*, found 'gemma'",
        ),
        ("../phi3", r"edgephi supports .*'phimoe', found '\.\./phi3'"),
        ("__init__", "edgephi supports .*'phimoe', found '__init__'"),
    ],
)
def test_other_models_are_refused_by_name(model_type: str, message: str) -> None:
    with pytest.raises(NotSupportedError, match=message):
        read_architecture({**MINI_4K, "model_type": model_type}, where="config.json")


@pytest.mark.parametrize("key", ["max_position_embeddings", "original_max_position_embeddings"])
@pytest.mark.parametrize("config", EACH_KIND, ids=lambda config: config["model_type"])
def test_a_context_of_one_token_is_none(config: dict[str, Any], key: str) -> None:
    with pytest.raises(BadCheckpointError, match=f"{key}: expected a whole number from 2 to .*, found 1"):
        read_architecture({**config, key: 1}, where="config.json")


def test_a_checkpoint_that_is_quantised_already_is_refused() -> None:
    with pytest.raises(NotSupportedError, match="quantised already"):
        read_architecture({**MINI_4K, "quantization_config": {"bits": 4}}, where="config.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\x00", "[" * 100_000])
def test_not_a_json_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadCheckpointError, match=r"config.json: expected"):
        load_architecture(tmp_path)


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpointError, match=r"config.json: expected this file, found none"):
        load_architecture(tmp_path)
