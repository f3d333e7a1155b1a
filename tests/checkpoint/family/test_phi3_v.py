"""Models that see: what their config and their preprocessor say, and what of it edgephi cannot build."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from edgephi.checkpoint.checkpoint import open_checkpoint
from edgephi.checkpoint.config import load_architecture
from edgephi.checkpoint.images.image_encoder import ImageEncoder
from edgephi.errors import BadCheckpointError, NotSupportedError
from tests.tiny_phi3_v import MEAN, STD, write_tiny_phi3_v

CLIP_LARGE = ImageEncoder(
    tile=336,
    patch=14,
    crops=16,
    hidden_size=1024,
    layers=23,
    heads=16,
    width=4096,
    epsilon=1e-5,
    projected_size=3072,
    mean=tuple(MEAN),
    std=tuple(STD),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_phi3_v(tmp_path / "sees")


def changed(folder: Path, name: str, **keys: Any) -> Path:
    """The checkpoint with other keys in a file; None takes one away."""
    config = {**json.loads((folder / name).read_text()), **keys}
    (folder / name).write_text(json.dumps({key: each for key, each in config.items() if each is not None}))
    return folder


def test_the_published_config(shared: Path) -> None:
    found = load_architecture(shared / "configs" / "phi-3.5-vision")
    assert found.image_encoder == CLIP_LARGE
    assert round(CLIP_LARGE.parameters / 1e6) == 313
    assert found.attention.rotary.long_factor is not None
    assert dataclasses.replace(found, image_encoder=None).parameters == 3_821_079_552


def test_without_a_word_on_its_size_the_encoder_is_clips_large_one(folder: Path) -> None:
    changed(folder, "config.json", img_processor={"name": "clip_vision_model", "num_img_tokens": 144})
    encoder = load_architecture(folder).image_encoder
    assert encoder == dataclasses.replace(CLIP_LARGE, crops=4, projected_size=256)


def test_crops_mean_and_deviation_are_the_preprocessors(folder: Path) -> None:
    changed(folder, "preprocessor_config.json", num_crops=9, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    encoder = load_architecture(folder).image_encoder
    assert encoder is not None
    assert (encoder.crops, encoder.mean, encoder.std) == (9, (0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(
    "keys",
    [
        {"num_crops": 0},
        {"num_crops": 65},
        {"num_crops": None},
        {"image_mean": [0.5, 0.5]},
        {"image_std": [0.5, 0.5, 0]},
        {"image_std": [255, 255, 255]},
        {"image_std": [0.5, 0.5, 1e-300]},
    ],
    ids=str,
)
def test_a_preprocessor_by_which_no_image_can_be_prepared(folder: Path, keys: dict[str, Any]) -> None:
    changed(folder, "preprocessor_config.json", **keys)
    with pytest.raises(BadCheckpointError, match=rf"preprocessor_config.json: {next(iter(keys))}"):
        load_architecture(folder)


def test_a_checkpoint_without_a_preprocessor_says_what_to_copy(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(BadCheckpointError, match=r"preprocessor_config.json: .* found none") as caught:
        open_checkpoint(folder, id="tiny", revision="local")
    assert "copy it" in caught.value.hint


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        ("embd_layer", {"hd_transform_order": "glb_sub"}),
        ("embd_layer", {"use_hd_transform": False}),
        ("embd_layer", {"projection_cls": "linear"}),
        ("img_processor", {"name": "siglip_vision_model"}),
        ("img_processor", {"layer_idx": -1}),
        ("img_processor", {"hidden_act": "gelu"}),
    ],
    ids=str,
)
def test_what_computes_something_else_is_refused(folder: Path, table: str, keys: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    changed(folder, "config.json", **{table: {**config[table], **keys}})
    with pytest.raises(NotSupportedError, match=f"{table}: {next(iter(keys))}: edgephi supports"):
        load_architecture(folder)


@pytest.mark.parametrize(
    "keys",
    [{"image_size": 60}, {"num_img_tokens": 9}, {"image_dim_out": 32}, {"num_attention_heads": 3}],
    ids=str,
)
def test_an_encoder_that_contradicts_itself(folder: Path, keys: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    changed(folder, "config.json", img_processor={**config["img_processor"], **keys})
    with pytest.raises(BadCheckpointError, match="img_processor: "):
        load_architecture(folder)


def test_the_layer_that_nothing_reads_may_be_missing(folder: Path) -> None:
    """And every other one may not."""
    checkpoint = open_checkpoint(folder, id="tiny", revision="local")
    assert not any(".layers.2.self_attn.q_proj" in name for name in checkpoint.tensors)
    assert any("vision_model.encoder.layers.1.self_attn.q_proj.bias" in name for name in checkpoint.tensors)
