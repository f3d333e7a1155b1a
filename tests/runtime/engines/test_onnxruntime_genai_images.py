"""The adapter of ONNX Runtime GenAI with a model that sees."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgephi.bundle.manifest import ARTIFACT_FOLDER
from edgephi.declared.target import Kernels
from edgephi.engines.onnxruntime_genai import FACTS
from edgephi.errors import BadBundleError, NotSupportedError
from edgephi.runtime.engines.tile_encoder import OnnxTileEncoder
from tests.export.oracle import mean_kl
from tests.runtime.engines.seeing_behaviour import Seeing, SeeingLongBehaviour, see

np = pytest.importorskip("numpy")
pytest.importorskip("onnxruntime_genai")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sees")


@pytest.fixture(scope="module")
def opened(folder: Path) -> Seeing:
    return see("cpu", folder)


class TestSeeing(SeeingLongBehaviour):
    @pytest.fixture
    def seeing(self, opened: Seeing) -> Seeing:
        return opened


def test_what_is_made_for_gpus_computes_the_same_on_a_cpu(tmp_path: Path) -> None:
    """With float16 activations, in which a certificate is measured where there is no GPU."""
    seeing = see("cuda", tmp_path, kernels=Kernels(0, "float16"))
    ids = seeing.prompt()
    found = np.concatenate(list(seeing.engine.logits(ids, step=32)))
    assert mean_kl(seeing.logits(ids), found) <= 1e-5


def fresh_encoder(folder: Path) -> OnnxTileEncoder:
    return OnnxTileEncoder(folder, "cpu", package=FACTS.packages[0], extra="cpu")


@pytest.mark.usefixtures("opened")
def test_separators_come_with_a_tile_or_without(opened: Seeing, folder: Path) -> None:
    encoder = fresh_encoder(folder / "bundle" / ARTIFACT_FOLDER)
    before = encoder.separators()
    encoder.encode_tile(opened.images[0].pixels[0])
    np.testing.assert_array_equal(encoder.separators(), before)
    assert opened.engine.tile_encoder is not None
    np.testing.assert_array_equal(opened.engine.tile_encoder.separators(), before)


@pytest.mark.parametrize("damage", ["no graph", "no weights", "half of them", "no protobuf"])
def test_a_damaged_encoder_is_said_when_the_first_image_comes(
    opened: Seeing, folder: Path, tmp_path: Path, damage: str
) -> None:
    for name in ("tile.onnx", "vision.onnx.data"):
        (tmp_path / name).write_bytes((folder / "bundle" / ARTIFACT_FOLDER / name).read_bytes())
    graph, data = tmp_path / "tile.onnx", tmp_path / "vision.onnx.data"
    if damage == "no graph":
        graph.unlink()
    elif damage == "no weights":
        data.unlink()
    elif damage == "half of them":
        os.truncate(data, data.stat().st_size // 2)
    else:
        graph.write_bytes(b"\xff" * 100)
    encoder = fresh_encoder(tmp_path)
    with pytest.raises(BadBundleError, match=r"tile\.onnx: expected a graph that onnxruntime \S+ can read"):
        encoder.encode_tile(opened.images[0].pixels[0])


def test_without_onnxruntime_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(NotSupportedError, match="runs on onnxruntime, which is not installed") as caught:
        OnnxTileEncoder(tmp_path, "cpu", package="onnxruntime", extra="cpu").separators()
    assert "pip install" in caught.value.hint


def test_nothing_of_the_encoder_is_loaded_before_an_image(folder: Path) -> None:
    """A question without one costs neither its memory nor its time."""
    code = (
        "import sys, pathlib\n"
        "from edgephi.runtime.engines.tile_encoder import OnnxTileEncoder\n"
        "OnnxTileEncoder(pathlib.Path(sys.argv[1]), 'cpu', package='', extra='cpu')\n"
        "assert 'onnxruntime' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, folder / "bundle" / ARTIFACT_FOLDER], check=True)
