"""A checkpoint of a tiny model that sees, and transformers' classes with the weights of an artifact of it."""

import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from safetensors.torch import load_file

from edgephi.bundle.image_tokens import row_order, token_count
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.checkpoint.images.image_encoder import ImageEncoder
from edgephi.reference.weights import ImageWeights, Weights
from tests.vision_oracle import Floats, VisionOracle

Grid = tuple[int, int]


def encoder_of(checkpoint: Checkpoint) -> ImageEncoder:
    """The image encoder, which is there."""
    encoder = checkpoint.architecture.image_encoder
    assert encoder is not None
    return encoder


def some_tiles(encoder: ImageEncoder, grid: Grid, *, seed: int = 0) -> Floats:
    """Pixels of an image of noise, as normalised ones are: its thumbnail and the tiles of its grid."""
    count = 1 + grid[0] * grid[1]
    random = np.random.default_rng([seed, *grid])
    return random.standard_normal((count, 3, encoder.tile, encoder.tile), dtype=np.float32)


def oracle_with(
    checkpoint: Checkpoint, weights: Weights, image_weights: ImageWeights, folder: Path
) -> VisionOracle:
    """transformers' classes with the weights that an artifact holds, which `folder` gets as a checkpoint."""
    shutil.copytree(checkpoint.folder, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    state: dict[str, Floats] = {}
    for shard in checkpoint.folder.glob("*.safetensors"):
        state |= {name: tensor.float().numpy().copy() for name, tensor in load_file(shard).items()}
    for of, sources in ((weights, checkpoint.sources), (image_weights, checkpoint.image_sources)):
        for tensor, parts in sources.items():
            rows = of.rows(tensor, 0, sum(len(part.into) for part in parts))
            for part in parts:
                array = state[part.tensor]
                flat = array.reshape(-1, *array.shape[1:][-1:])
                places = slice(part.rows.start, part.rows.stop, part.rows.step)
                flat[places] = rows[part.into.start : part.into.stop : part.into.step]
    save_file(state, folder / "model.safetensors")
    return VisionOracle(folder)


def ordered(rows: Floats, grid: Grid, encoder: ImageEncoder) -> Floats:
    """The tokens of an image: the separators' rows and those of its tiles, in their order."""
    tokens = rows[row_order(grid, encoder.facts)]
    assert len(tokens) == token_count(grid, encoder.facts)
    return tokens
