"""The adapter of llama.cpp with a model that sees: onnxruntime encodes, and rows stand in place of tokens."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgephi.bundle.manifest import ARTIFACT_FOLDER
from edgephi.engines.llama_cpp import MODEL_FILE
from edgephi.errors import NotSupportedError
from edgephi.export.gguf.weights import read_tensors
from edgephi.runtime.engines.tile_encoder import OnnxTileEncoder
from tests.runtime.engines.seeing_behaviour import Seeing, SeeingLongBehaviour, see

pytest.importorskip("xllamacpp")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sees")


@pytest.fixture(scope="module")
def opened(folder: Path) -> Seeing:
    return see("gguf", folder)


class TestSeeing(SeeingLongBehaviour):
    limit = 1e-3  # llama.cpp rounds activations to 8 bits, whatever it is told

    @pytest.fixture
    def seeing(self, opened: Seeing) -> Seeing:
        return opened


@pytest.mark.usefixtures("opened")
def test_the_file_is_that_of_a_model_that_reads_words(folder: Path) -> None:
    """So other tools open it, and see nothing; the encoder lies beside it."""
    artifact = folder / "bundle" / ARTIFACT_FOLDER
    names = set(read_tensors(artifact / MODEL_FILE))
    assert {"token_embd.weight", "output.weight", "blk.1.ffn_down.weight"} <= names
    assert not [name for name in names if name.startswith(("v.", "mm."))]
    assert sorted(path.name for path in artifact.glob("*onnx*")) == ["tile.onnx", "vision.onnx.data"]


def test_without_onnxruntime_its_extra_is_named(opened: Seeing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words are read all the same: only the first image needs it."""
    fresh = opened.engine.tile_encoder
    assert isinstance(fresh, OnnxTileEncoder)
    monkeypatch.delitem(vars(fresh), "_session", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(NotSupportedError, match="runs on onnxruntime, which is not installed") as caught:
        fresh.encode_tile(opened.images[0].pixels[0])
    assert "pip install" in caught.value.hint
