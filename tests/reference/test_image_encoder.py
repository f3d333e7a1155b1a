"""The reference's image encoder, and a decoder that reads images, against the classes of transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgephi.bundle.image_tokens import token_count
from edgephi.checkpoint.checkpoint import (
    Checkpoint,
    CheckpointImageWeights,
    CheckpointWeights,
    open_checkpoint,
)
from edgephi.reference.forward import final_hidden_states, logits
from edgephi.reference.image_encoder import encoded_tiles, image_tokens
from tests.tiny_phi3_v import write_tiny_phi3_v
from tests.vision_oracle import Floats, VisionOracle

SHAPES: dict[str, dict[str, Any]] = {
    "tiles of 56": {},
    "tiles of 84, patches of 6": {"tile": 84, "patch": 6, "image_layers": 4, "image_heads": 2, "crops": 16},
}


@pytest.fixture(scope="module", params=list(SHAPES.values()), ids=list(SHAPES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_phi3_v(tmp_path_factory.mktemp("sees"), **request.param)


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return open_checkpoint(folder, id="tiny", revision="local")


@pytest.fixture(scope="module")
def oracle(folder: Path) -> VisionOracle:
    return VisionOracle(folder)


def some_pixels(checkpoint: Checkpoint, grid: tuple[int, int]) -> Floats:
    encoder = CheckpointImageWeights(checkpoint).architecture
    count = 1 + grid[0] * grid[1]
    random = np.random.default_rng(count)
    return random.standard_normal((count, 3, encoder.tile, encoder.tile), dtype=np.float32)


def kl(expected: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    first, second = (each.double().log_softmax(-1) for each in (expected, found))
    return (first.exp() * (first - second)).sum(-1)


def test_tiles_are_those_of_clip(checkpoint: Checkpoint, oracle: VisionOracle) -> None:
    """The layer before the last one, without its class token, merged two by two and projected."""
    pixels = some_pixels(checkpoint, (2, 2))
    found = encoded_tiles(CheckpointImageWeights(checkpoint), pixels)
    facts = CheckpointImageWeights(checkpoint).architecture.facts
    expected = oracle.image(pixels[:2], (1, 1))
    lines = expected[: facts.side * (facts.side + 1)].reshape(facts.side, facts.side + 1, -1)
    assert torch.from_numpy(found[1]).reshape(facts.side, facts.side, -1) == pytest.approx(
        lines[:, :-1].numpy(), abs=2e-5
    )


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (1, 4), (4, 1)])
def test_an_image_has_its_tokens_in_order(
    checkpoint: Checkpoint, oracle: VisionOracle, grid: tuple[int, int]
) -> None:
    weights, pixels = CheckpointImageWeights(checkpoint), some_pixels(checkpoint, grid)
    found = image_tokens(weights, pixels, grid)
    assert len(found) == token_count(grid, weights.architecture.facts)
    assert found == pytest.approx(oracle.image(pixels, grid).numpy(), abs=2e-5)


def test_a_conversation_about_two_images(checkpoint: Checkpoint, oracle: VisionOracle) -> None:
    weights = CheckpointImageWeights(checkpoint)
    images = [(some_pixels(checkpoint, grid), grid) for grid in ((2, 2), (1, 3))]
    tables = [image_tokens(weights, *image) for image in images]
    first, second = (list(range(-1, -1 - len(table), -1)) for table in tables)
    second = [each - len(first) for each in second]
    ids = [1, 300, 17, *first, 40, 41, *second, 42, 7, 8, 9, *first[:5]]
    [hidden] = final_hidden_states(
        [CheckpointWeights(checkpoint)], [ids], image_rows=[np.concatenate(tables)]
    )
    found = torch.from_numpy(logits(CheckpointWeights(checkpoint), hidden))
    expected = oracle.logits(ids, torch.cat([oracle.image(*image) for image in images]))
    assert kl(expected, found).max() <= 1e-6


def test_an_image_that_is_not_there_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ValueError, match="from -3 to"):
        final_hidden_states(
            [CheckpointWeights(checkpoint)], [[5, -4]], image_rows=[np.zeros((3, 256), np.float32)]
        )
