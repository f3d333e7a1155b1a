"""OpenVINO sees: tiles by the graphs of encoder and projection, and both kinds of cache take images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgephi.errors import BadBundleError
from edgephi.runtime.engines.openvino_genai import decoder as openvino_decoder
from edgephi.runtime.engines.openvino_genai.adapter import OpenvinoEngine
from edgephi.runtime.engines.openvino_genai.decoder import _PagedDecoder, _StatefulDecoder
from edgephi.runtime.engines.openvino_genai.image_encoder import OpenvinoTileEncoder
from tests.runtime.engines.seeing_behaviour import Seeing, SeeingLongBehaviour, see


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Seeing:
    return see("openvino", tmp_path_factory.mktemp("seeing"))


class TestSeeing(SeeingLongBehaviour):
    def test_attention_is_paged(self, seeing: Seeing) -> None:
        assert isinstance(seeing.engine, OpenvinoEngine)
        assert isinstance(seeing.engine._decoder, _PagedDecoder)


class TestSeeingInTheStateOfARequest(SeeingLongBehaviour):
    """As it is wherever there is no paged attention; and with an encoder in float16."""

    @pytest.fixture(scope="class")
    @staticmethod
    def seeing(tmp_path_factory: pytest.TempPathFactory) -> Seeing:
        def not_paged(*_: object, **__: object) -> None:
            raise openvino_decoder._NotPagedError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(openvino_decoder, "_PagedDecoder", not_paged)
            seeing = see("openvino", tmp_path_factory.mktemp("stateful"), image_encoder="float16")
        assert isinstance(seeing.engine, OpenvinoEngine)
        assert isinstance(seeing.engine._decoder, _StatefulDecoder)
        return seeing


class TestTileEncoder:
    def test_it_is_compiled_with_the_first_image(self, seeing: Seeing) -> None:
        encoder = seeing.engine.tile_encoder
        assert isinstance(encoder, OpenvinoTileEncoder)
        fresh = OpenvinoTileEncoder(
            encoder._openvino, encoder._core, encoder._artifact, encoder._device, encoder._facts
        )
        assert not {"_encoder", "_projection"} & vars(fresh).keys()
        tile = seeing.images[0].pixels[0]
        np.testing.assert_array_equal(fresh.encode_tile(tile), encoder.encode_tile(tile))
        assert {"_encoder", "_projection"} <= vars(fresh).keys()

    @pytest.mark.parametrize(
        ("name", "content", "expected"),
        [
            ("openvino_vision_embeddings_model.xml", b"{", "expected a part of a model that sees"),
            ("openvino_vision_projection_model.bin", b"", "expected a part of a model that sees"),
            ("config.json", b"{}", "expected what stands between the parts of an image"),
            ("config.json", b"[", "expected what stands between the parts of an image"),
        ],
    )
    def test_files_that_cannot_be_read(
        self, seeing: Seeing, tmp_path: Path, name: str, content: bytes, expected: str
    ) -> None:
        encoder = seeing.engine.tile_encoder
        assert isinstance(encoder, OpenvinoTileEncoder)
        shutil.copytree(encoder._artifact, tmp_path / "model")
        (tmp_path / "model" / name).write_bytes(content)
        broken = OpenvinoTileEncoder(
            encoder._openvino, encoder._core, tmp_path / "model", encoder._device, encoder._facts
        )
        with pytest.raises(BadBundleError, match=expected) as caught:
            (broken.separators(), broken.encode_tile(seeing.images[0].pixels[0]))
        assert "\n" not in caught.value.message
