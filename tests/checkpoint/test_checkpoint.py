"""Opening a checkpoint: its parts agree, or the one that does not is named."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from edgephi.checkpoint.checkpoint import Checkpoint, CheckpointWeights, open_checkpoint, read_rows
from edgephi.checkpoint.roles import FINAL_NORM, ModelTensor, Role
from edgephi.errors import BadCheckpointError, NotSupportedError
from tests.property_profile import examples
from tests.tiny_checkpoint import (
    SHAPES,
    FloatKind,
    TinyShape,
    tiny_weights,
    write_tiny_checkpoint,
    write_weights,
)

SMALL = TinyShape(layers=1, hidden=64, ffn=96)
QKV = ModelTensor(Role.QUERY_KEY_VALUE, 0)
QKV_NAME = "model.layers.0.self_attn.qkv_proj.weight"
NORM_NAME = "model.norm.weight"


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(folder, id="tiny", revision="local")


def rejected(folder: Path) -> str:
    with pytest.raises(BadCheckpointError) as caught:
        opened(folder)
    assert "\n" not in caught.value.message
    return caught.value.message


def rewritten(folder: Path, weights: dict[str, npt.NDArray[np.float32]], **options: Any) -> Path:
    write_weights(folder, weights, **options)
    return folder


class TestOpening:
    @pytest.mark.parametrize("name", list(SHAPES))
    @pytest.mark.parametrize("shards", [1, 3])
    def test_every_shape_of_the_family(self, tmp_path: Path, name: str, shards: int) -> None:
        found = opened(
            write_tiny_checkpoint(tmp_path / "x", name, layers=1, hidden=128, ffn=64, shards=shards)
        )
        assert len(found.shards) == shards
        assert set(found.sources) == set(found.architecture.tensor_shapes())
        assert sum(entry.size for entry in found.tensors.values()) == 2 * found.architecture.parameters

    @pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
    @pytest.mark.parametrize("shards", [1, 2])
    def test_rows_are_those_of_the_library(self, tmp_path: Path, dtype: FloatKind, shards: int) -> None:
        folder = write_tiny_checkpoint(tmp_path / "x", SMALL, dtype=dtype, shards=shards)
        checkpoint = opened(folder)
        stored = {
            name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()
        }
        for tensor, (source,) in checkpoint.sources.items():
            expected = stored[source.tensor]
            found = CheckpointWeights(checkpoint).rows(tensor, 0, expected.shape[0])
            np.testing.assert_array_equal(found, expected.float().numpy())

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(30))
    @given(st.sampled_from([QKV, FINAL_NORM]), st.integers(0, 64), st.integers(0, 64))
    def test_any_range_of_rows(self, tiny: Path, tensor: ModelTensor, one: int, other: int) -> None:
        start, stop = sorted((one, other))
        checkpoint = opened(tiny)
        whole = read_rows(checkpoint, tensor, 0, 64)
        np.testing.assert_array_equal(read_rows(checkpoint, tensor, start, stop), whole[start:stop])

    def test_rows_from_many_threads(self, tiny: Path) -> None:
        weights = CheckpointWeights(opened(tiny))
        whole = weights.rows(QKV, 0, 64)
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda row: weights.rows(QKV, row, row + 1), list(range(64)) * 4)
        np.testing.assert_array_equal(np.concatenate(list(found)), np.concatenate([whole] * 4))

    def test_rows_that_are_not_there(self, tiny: Path) -> None:
        with pytest.raises(IndexError):
            read_rows(opened(tiny), FINAL_NORM, 0, 65)

    def test_file_shortened_after_it_was_opened(self, tiny: Path) -> None:
        checkpoint = opened(tiny)
        os.truncate(tiny / "model.safetensors", 1000)
        with pytest.raises(BadCheckpointError, match="before the end of the file"):
            read_rows(checkpoint, FINAL_NORM, 0, 64)

    def test_stored_rotary_tables_and_tied_heads_are_ignored(self, tmp_path: Path) -> None:
        folder = write_tiny_checkpoint(tmp_path / "x", SMALL, tied=True)
        weights = tiny_weights(SMALL)
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
        checkpoint = opened(rewritten(folder, weights))
        assert "lm_head.weight" not in checkpoint.tensors
        assert len(checkpoint.tensors) == len(weights) - 2


class TestContradictions:
    def test_missing_tensor(self, tiny: Path) -> None:
        weights = tiny_weights(SMALL)
        del weights[QKV_NAME]
        assert f"tensor {QKV_NAME}: expected shape [128, 64]" in rejected(rewritten(tiny, weights))

    def test_unexpected_tensor(self, tiny: Path) -> None:
        weights = {**tiny_weights(SMALL), "model.layers.1.bias": np.ones(3, np.float32)}
        assert "tensor model.layers.1.bias" in rejected(rewritten(tiny, weights))

    def test_wrong_shape(self, tiny: Path) -> None:
        weights = {**tiny_weights(SMALL), NORM_NAME: np.ones(65, np.float32)}
        message = f"tensor {NORM_NAME}: expected shape [64] by the config, found [65]"
        assert message in rejected(rewritten(tiny, weights))

    def test_config_of_another_model(self, tiny: Path) -> None:
        config = json.loads((tiny / "config.json").read_text())
        (tiny / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
        assert "model.layers.1.input_layernorm.weight" in rejected(tiny)

    def test_weights_that_are_not_floats(self, tiny: Path) -> None:
        file = tiny / "model.safetensors"
        file.write_bytes(file.read_bytes().replace(b'"BF16"', b'"I16" '))
        assert "expected one of BF16, F16, F32, found I16" in rejected(tiny)

    def test_unsupported_model(self, tiny: Path) -> None:
        (tiny / "config.json").write_text('{"model_type": "phi4mm"}')
        with pytest.raises(NotSupportedError):
            opened(tiny)

    def test_no_such_folder(self, tmp_path: Path) -> None:
        assert "expected a checkpoint's folder" in rejected(tmp_path / "nothing")


class TestFiles:
    @pytest.fixture
    def sharded(self, tmp_path: Path) -> Path:
        return write_tiny_checkpoint(tmp_path / "x", SMALL, shards=2)

    def change_index(self, folder: Path, changes: dict[str, object]) -> None:
        file = folder / "model.safetensors.index.json"
        index = json.loads(file.read_text())
        file.write_text(json.dumps({"weight_map": {**index["weight_map"], **changes}}))

    def test_no_weights(self, tiny: Path) -> None:
        (tiny / "model.safetensors").unlink()
        assert "expected model.safetensors or model.safetensors.index.json" in rejected(tiny)

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
    def test_pickles_are_never_loaded(self, tiny: Path, name: str) -> None:
        (tiny / "model.safetensors").rename(tiny / name)
        with pytest.raises(BadCheckpointError) as caught:
            opened(tiny)
        assert name in caught.value.message
        assert "pickle files are never loaded" in caught.value.hint

    def test_missing_shard(self, sharded: Path) -> None:
        (sharded / "model-00002-of-00002.safetensors").unlink()
        assert "found no model-00002-of-00002.safetensors" in rejected(sharded)

    @pytest.mark.parametrize(
        "name", ["../x.safetensors", "/etc/x.safetensors", "a/x.safetensors", "x.bin", 7, ""]
    )
    def test_index_that_leaves_the_folder(self, sharded: Path, name: object) -> None:
        self.change_index(sharded, {NORM_NAME: name})
        assert f"{NORM_NAME}: expected a .safetensors file beside the index" in rejected(sharded)

    def test_index_names_the_wrong_shard(self, sharded: Path) -> None:
        self.change_index(sharded, {NORM_NAME: "model-00001-of-00002.safetensors"})
        assert NORM_NAME in rejected(sharded)

    def test_index_names_a_tensor_that_is_nowhere(self, sharded: Path) -> None:
        self.change_index(sharded, {"ghost": "model-00001-of-00002.safetensors"})
        assert "ghost" in rejected(sharded)

    def test_tensor_in_two_shards(self, sharded: Path) -> None:
        first, second = sorted(sharded.glob("*.safetensors"))
        second.write_bytes(first.read_bytes())
        assert "found it in model-00001-of-00002.safetensors and" in rejected(sharded)

    @pytest.mark.parametrize("text", ["{}", '{"weight_map": []}', '{"weight_map": {}}', "nonsense"])
    def test_broken_index(self, sharded: Path, text: str) -> None:
        (sharded / "model.safetensors.index.json").write_text(text)
        assert "model.safetensors.index.json: expected" in rejected(sharded)

    def test_cut_file(self, tiny: Path) -> None:
        file = tiny / "model.safetensors"
        size = file.stat().st_size
        os.truncate(file, size - 100)
        assert f"{file}: expected {size} bytes by its header, found {size - 100}" in rejected(tiny)
