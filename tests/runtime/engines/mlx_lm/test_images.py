"""mlx-lm sees: our encoder, and its decoder fed with embeddings."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgephi.declared.recipe import ImagePrecision
from edgephi.declared.target import Kernels
from edgephi.errors import BadBundleError
from edgephi.runtime.engines.mlx_lm.image_encoder import MlxTileEncoder
from tests.runtime.engines.seeing_behaviour import SHAPE, Seeing, SeeingBehaviour, see

mx = pytest.importorskip("mlx.core")

LONG_ENOUGH = 4096  # tokens: mlx-lm never changes LongRoPE's factors


@pytest.fixture(scope="module", params=["int8", "float16"])
def seeing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seeing:
    precision: ImagePrecision = request.param
    shape = dataclasses.replace(SHAPE, original_context=LONG_ENOUGH, context=131072)
    folder = tmp_path_factory.mktemp("seeing")
    return see("mlx", folder, kernels=Kernels(activations="float32"), image_encoder=precision, shape=shape)


class TestSeeing(SeeingBehaviour):
    pass


class TestTileEncoder:
    def test_it_is_read_with_the_first_image(self, seeing: Seeing) -> None:
        encoder = seeing.engine.tile_encoder
        assert isinstance(encoder, MlxTileEncoder)
        fresh = MlxTileEncoder(encoder._artifact, "cpu", encoder._device)
        assert "_encoder" not in vars(fresh)
        tile = seeing.images[0].pixels[0]
        np.testing.assert_array_equal(fresh.encode_tile(tile), encoder.encode_tile(tile))
        assert "_encoder" in vars(fresh)

    def test_weights_stay_codes(self, seeing: Seeing) -> None:
        encoder = seeing.engine.tile_encoder
        assert isinstance(encoder, MlxTileEncoder)
        encoder.encode_tile(seeing.images[0].pixels[0])
        kinds = {type(module).__name__ for _, module in encoder._encoder.named_modules()}
        is_quantised = any(name.endswith(".scales") for name in stored_names(encoder._artifact))
        assert ("QuantizedLinear" in kinds) == is_quantised
        assert ("Linear" in kinds) != is_quantised

    @pytest.mark.parametrize("name", ["image_encoder.json", "image_encoder.safetensors"])
    def test_files_that_cannot_be_read(self, seeing: Seeing, tmp_path: Path, name: str) -> None:
        encoder = seeing.engine.tile_encoder
        assert isinstance(encoder, MlxTileEncoder)
        shutil.copytree(encoder._artifact, tmp_path / "model")
        (tmp_path / "model" / name).write_bytes(b"{" * 100)
        broken = MlxTileEncoder(tmp_path / "model", "cpu", encoder._device)
        with pytest.raises(BadBundleError, match="expected to encode an image") as caught:
            broken.encode_tile(seeing.images[0].pixels[0])
        assert "\n" not in caught.value.message


def stored_names(artifact: Path) -> list[str]:
    return list(mx.load(str(artifact / "image_encoder.safetensors")))
