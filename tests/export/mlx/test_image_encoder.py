"""The image encoder of an MLX artifact: what MLX reads in it; and mlx-lm opens the decoder beside it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgephi.build.seeing.image_plans import plan_image_tensors
from edgephi.build.tensor_plans import plan_tensors
from edgephi.checkpoint.checkpoint import Checkpoint, CheckpointImageWeights, open_checkpoint
from edgephi.checkpoint.images.image_encoder import MATRICES, ImageEncoder
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.declared.recipe import Quant
from edgephi.declared.target import Kernels, Target, read_target
from edgephi.export.mlx import exporter, image_encoder
from edgephi.export.stream.packed_tensor import row_count
from edgephi.export.tensor_names import tensor_name
from tests.export.oracle import Floats, mean_kl
from tests.export.vision_artifact import encoder_of, oracle_with
from tests.portable import portable
from tests.tiny_phi3_v import write_tiny_phi3_v

mx: Any = pytest.importorskip("mlx.core")

FILE, CONFIG = "image_encoder.safetensors", "image_encoder.json"


@dataclass(frozen=True)
class Exported:
    """A tiny checkpoint and its artifact."""

    checkpoint: Checkpoint
    folder: Path
    quant: Quant
    target: Target

    @property
    def encoder(self) -> ImageEncoder:
        return encoder_of(self.checkpoint)


@pytest.fixture(
    scope="module", params=[("int8", "float32"), ("int8", "float16"), ("float16", "float32")], ids="-".join
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    precision, activations = request.param
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = open_checkpoint(write_tiny_phi3_v(folder / "tiny"), id="tiny", revision="local")
    quant = dataclasses.replace(portable(group_size=32), image_encoder=precision)
    target = dataclasses.replace(read_target("mlx"), kernels=Kernels(activations=activations))
    (folder / "model").mkdir()
    plans = plan_tensors(checkpoint.architecture, quant, "offsets")
    exporter.write_artifact(folder / "model", checkpoint, plans, target, 4096)
    images = plan_image_tensors(encoder_of(checkpoint), quant)
    image_encoder.write(folder / "model", checkpoint, images, target)
    return Exported(checkpoint, folder / "model", quant, target)


def read_by_mlx(exported: Exported) -> dict[str, Floats]:
    """Every tensor, float32, as MLX reads and dequantises it."""
    stored = mx.load(str(exported.folder / FILE))
    quantization = json.loads((exported.folder / CONFIG).read_text()).get("quantization", {})
    found = {}
    for name, codes in stored.items():
        array = codes
        module = name.removesuffix(".weight")
        if f"{module}.scales" in stored and name.endswith(".weight"):
            own = quantization.get(module, quantization)
            floats = (stored[f"{module}.{kind}"].astype(mx.float32) for kind in ("scales", "biases"))
            array = mx.dequantize(array, *floats, group_size=own["group_size"], bits=own["bits"])
        found[name] = np.array(array.astype(mx.float32))
    return found


def test_its_size_was_known(exported: Exported) -> None:
    plans = plan_image_tensors(exported.encoder, exported.quant)
    expected = image_encoder.data_bytes(exported.encoder, plans, exported.target)
    assert expected == (exported.folder / FILE).stat().st_size


def test_our_reader_reads_what_mlx_reads(exported: Exported) -> None:
    theirs = read_by_mlx(exported)
    ours = image_encoder.weights(exported.folder, exported.encoder)
    for tensor, shape in exported.encoder.tensor_shapes().items():
        count = row_count(shape)
        expected = theirs[tensor_name(tensor).removeprefix("image_encoder.")]
        if tensor.role is Role.IMAGE_PATCHES:  # MLX has colours last
            expected = expected.transpose(0, 3, 1, 2)
        expected = expected.reshape(count, *shape[-1:][: len(shape) - 1])
        np.testing.assert_allclose(ours.rows(tensor, 0, count), expected, rtol=1e-6, atol=1e-7)
        start, stop = count // 3, count // 2
        np.testing.assert_allclose(ours.rows(tensor, start, stop), expected[start:stop], rtol=1e-6, atol=1e-7)


def test_it_is_the_checkpoint(exported: Exported) -> None:
    stored = image_encoder.weights(exported.folder, exported.encoder)
    original = CheckpointImageWeights(exported.checkpoint)
    for tensor, shape in exported.encoder.tensor_shapes().items():
        count = row_count(shape)
        wanted, found = (each.rows(tensor, 0, count) for each in (original, stored))
        error = float(((found - wanted) ** 2).sum() / (wanted**2).sum())
        codes = tensor.role in MATRICES and exported.quant.image_encoder == "int8"
        # Eight bits; or bfloat16, all of which float16 holds but for the smallest.
        assert 1e-8 < error < 1e-4 if codes else error < 1e-12, tensor


def test_filters_are_as_mlx_wants_them(exported: Exported) -> None:
    encoder = exported.encoder
    stored = mx.load(str(exported.folder / FILE))["patch_embedding.weight"]
    assert tuple(stored.shape) == (encoder.hidden_size, encoder.patch, encoder.patch, 3)
    rows = row_count(encoder.tensor_shapes()[ModelTensor(Role.IMAGE_PATCHES)])
    tile = np.random.default_rng(0).standard_normal((3, encoder.patch, encoder.patch), dtype=np.float32)
    own = CheckpointImageWeights(exported.checkpoint).rows(ModelTensor(Role.IMAGE_PATCHES), 0, rows)
    expected = own.reshape(encoder.hidden_size, -1) @ tile.ravel()
    tiles = mx.array(tile.transpose(1, 2, 0)[None])
    found = mx.conv2d(tiles, stored.astype(mx.float32), stride=encoder.patch)
    np.testing.assert_allclose(np.array(found).ravel(), expected, atol=1e-4)


def test_mlx_lm_opens_the_decoder(exported: Exported, tmp_path: Path) -> None:
    """For texts, as it opens any other; the encoder's file is none of those that it looks for."""
    import mlx_lm

    model, tokenizer = mlx_lm.load(str(exported.folder))
    ids = [int(id_) for id_ in np.random.default_rng(1).integers(3, 300, 40)]
    assert tokenizer.encode("turn on the light")
    oracle = oracle_with(
        exported.checkpoint,
        exporter.artifact_weights(exported.folder, exported.checkpoint.architecture),
        image_encoder.weights(exported.folder, exported.encoder),
        tmp_path / "again",
    )
    expected = oracle.logits(ids, np.empty((0, 256), np.float32)).numpy()
    found = np.array(model(mx.array([ids]))[0].astype(mx.float32))
    assert mean_kl(expected, found) <= (1e-8 if exported.target.kernels.activations == "float32" else 2e-3)
