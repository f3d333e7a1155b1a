"""A checkpoint with adapters has the weights that PEFT merges them to."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from edgephi.checkpoint.adapter.merged import StrengthenedAdapter, merged
from edgephi.checkpoint.checkpoint import Checkpoint, open_checkpoint, read_rows
from edgephi.checkpoint.family import phi3
from edgephi.checkpoint.located import Located
from edgephi.checkpoint.roles import EMBEDDING, HEAD, ModelTensor, Role
from edgephi.errors import BadCheckpointError, NotSupportedError
from tests.checkpoint.adapter.peft_adapter import merged_by_peft, save_adapter, save_as_llama
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.tiny_phi3_v import write_tiny_phi3_v

BASE = "model.layers.0."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with fewer key heads than query heads, in bfloat16."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("base") / "base", hidden=64, ffn=96, shards=2)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("base") / "tied", hidden=64, ffn=96, tied=True)


def with_adapters(base: Path, *adapters: Path, scale: float = 1.0) -> Checkpoint:
    found = [StrengthenedAdapter(Located(each.name, "local", each), scale) for each in adapters]
    return merged(open_checkpoint(base, id="base", revision="local"), found)


def assert_merged_as_by_peft(checkpoint: Checkpoint, expected: Any) -> None:
    for tensor, shape in checkpoint.architecture.tensor_shapes().items():
        (name,) = {
            HEAD: ["lm_head.weight"],
            EMBEDDING: ["model.embed_tokens.weight"],
        }.get(tensor) or [original(checkpoint, tensor)]
        whole = read_rows(checkpoint, tensor, 0, shape[0])
        np.testing.assert_allclose(whole, expected[name], rtol=0, atol=1e-6, err_msg=name)
        # A few rows in the middle are those of the whole.
        some = slice(shape[0] // 3, shape[0] // 3 + 5)
        np.testing.assert_allclose(
            read_rows(checkpoint, tensor, some.start, some.stop), whole[some], atol=1e-7
        )


def original(checkpoint: Checkpoint, tensor: Any) -> str:
    """The name of a tensor in what PEFT has merged."""
    (source,) = phi3.sources(checkpoint.architecture)[tensor]
    return source.tensor


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True, "r": 9},
    "patterns": {
        "rank_pattern": {"down_proj": 2, r"layers\.1\.self_attn.qkv_proj": 7},
        "alpha_pattern": {"model.layers.0.mlp.gate_up_proj": 32, "o_proj": 1},
    },
    "dora": {"use_dora": True},
    "one layer": {"layers_to_transform": [1], "target_modules": ["down_proj"]},
    "saved head and embedding": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "saved norms": {"modules_to_save": ["input_layernorm", "norm"]},
    "embedding": {"target_modules": ["embed_tokens", "qkv_proj", "lm_head"]},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_weights_are_those_of_peft(base: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    adapter = save_adapter(base, tmp_path / "adapter", **options)
    assert_merged_as_by_peft(with_adapters(base, adapter), merged_by_peft(base, adapter))


@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_modules_under_llamas_names_are_parts_of_ours(base: Path, tmp_path: Path, dora: bool) -> None:
    adapter = save_adapter(base, tmp_path / "adapter", split=True, use_dora=dora)
    assert_merged_as_by_peft(with_adapters(base, adapter), merged_by_peft(base, adapter, split=True))


@pytest.mark.parametrize("split", [False, True], ids=["Phi-3's names", "Llama's names"])
def test_a_checkpoint_with_llamas_names_takes_both(base: Path, tmp_path: Path, split: bool) -> None:
    llama = save_as_llama(base, tmp_path / "llama")
    adapter = save_adapter(base, tmp_path / "adapter", split=split, use_dora=True)
    checkpoint = with_adapters(llama, adapter)
    assert checkpoint.architecture.model_type == "llama"
    assert_merged_as_by_peft(checkpoint, merged_by_peft(base, adapter, split=split))


def test_several_are_merged_one_after_the_other(base: Path, tmp_path: Path) -> None:
    options: list[dict[str, Any]] = [
        {"modules_to_save": ["lm_head"]},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"], "r": 2},
    ]
    adapters = [
        save_adapter(base, tmp_path / str(seed) / "adapter", seed=seed, **each)
        for seed, each in enumerate(options)
    ]
    assert_merged_as_by_peft(with_adapters(base, *adapters), merged_by_peft(base, *adapters))


def test_a_factor_multiplies_what_is_added(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(base, tmp_path / "adapter")
    stronger = tmp_path / "stronger"
    shutil.copytree(adapter, stronger)
    change_config(stronger, lora_alpha=4)
    assert_merged_as_by_peft(with_adapters(base, adapter, scale=0.5), merged_by_peft(base, stronger))


@pytest.mark.parametrize("saved", [["lm_head"], ["lm_head", "embed_tokens"]], ids=", ".join)
def test_a_head_of_its_own_is_no_longer_the_embedding(tied: Path, tmp_path: Path, saved: list[str]) -> None:
    adapter = save_adapter(tied, tmp_path / "adapter", modules_to_save=saved)
    checkpoint = with_adapters(tied, adapter)
    assert not checkpoint.architecture.tied_embeddings
    assert_merged_as_by_peft(checkpoint, merged_by_peft(tied, adapter))


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_a_low_rank_change_of_one_of_them_is_refused(tied: Path, tmp_path: Path, module: str) -> None:
    adapter = save_adapter(tied, tmp_path / "adapter", target_modules=[module])
    with pytest.raises(NotSupportedError, match=f"{module}: expected no change .* embedding and head share"):
        with_adapters(tied, adapter)


def change_config(adapter: Path, **keys: object) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))


class TestRefused:
    @pytest.fixture(scope="class")
    @staticmethod
    def saved(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return save_adapter(base, tmp_path_factory.mktemp("saved") / "adapter")

    @pytest.fixture
    def adapter(self, saved: Path, tmp_path: Path) -> Path:
        """An adapter, to be damaged at will."""
        shutil.copytree(saved, tmp_path / "adapter")
        return tmp_path / "adapter"

    def change(self, adapter: Path, **tensors: Any) -> None:
        """Replace tensors of the file by others, and leave those out that become None."""
        from safetensors.numpy import load_file, save_file

        file = adapter / "adapter_model.safetensors"
        whole = {**load_file(file), **tensors}
        save_file({name: value for name, value in whole.items() if value is not None}, file)

    def test_of_another_model(self, adapter: Path, tmp_path: Path) -> None:
        other = write_tiny_checkpoint(tmp_path / "other", hidden=128, ffn=96)
        with pytest.raises(
            BadCheckpointError, match=r"expected a change of shape \[128, 96\], found \[64, 96\]"
        ):
            with_adapters(other, adapter)
        with pytest.raises(
            BadCheckpointError, match=r"layers\.1\.\S+: expected a module of base, found none"
        ):
            with_adapters(write_tiny_checkpoint(tmp_path / "one", hidden=64, ffn=96, layers=1), adapter)

    @pytest.mark.parametrize(
        ("key", "value"),
        {
            "bias": "all", "lora_bias": True, "fan_in_fan_out": True, "use_qalora": True,
            "target_parameters": ["x"], "layer_replication": [[0, 2]], "trainable_token_indices": [3],
            "alora_invocation_tokens": [1],
            "init_lora_weights": "pissa_niter_16", "peft_type": "IA3", "task_type": "SEQ_CLS",
            "from_the_future": {"much": 1}, "alpha_pattern": {"(a+)+": 1}, "rank_pattern": {".*.*.*.*": 1},
        }.items(),
    )  # fmt: skip
    def test_what_is_more_than_changes_of_weights(
        self, base: Path, adapter: Path, key: str, value: object
    ) -> None:
        change_config(adapter, **{key: value})
        with pytest.raises(NotSupportedError, match=rf"adapter_config\.json: {key}: expected"):
            with_adapters(base, adapter)

    @pytest.mark.parametrize(
        ("key", "value"),
        [("r", 0), ("r", "8"), ("r", 1 << 30), ("lora_alpha", None), ("lora_alpha", float("nan")),
         ("peft_type", None), ("alpha_pattern", 3), ("rank_pattern", {"x": True}),
         ("alpha_pattern", {"*": 1})],
    )  # fmt: skip
    def test_a_broken_configuration(self, base: Path, adapter: Path, key: str, value: object) -> None:
        change_config(adapter, **{key: value})
        with pytest.raises(BadCheckpointError, match=rf"{key}: .*expected"):
            with_adapters(base, adapter)

    def test_another_rank_than_the_configuration_says(self, base: Path, adapter: Path) -> None:
        change_config(adapter, r=3)
        with pytest.raises(BadCheckpointError, match="expected rank 3 by the configuration, found 4"):
            with_adapters(base, adapter)

    def test_one_matrix_of_two(self, base: Path, adapter: Path) -> None:
        self.change(adapter, **{f"base_model.model.{BASE}mlp.down_proj.lora_A.weight": None})
        with pytest.raises(
            BadCheckpointError, match=r"down_proj: expected lora_B and lora_A, found no lora_A"
        ):
            with_adapters(base, adapter)

    def test_what_is_no_part_of_an_adapter(self, base: Path, adapter: Path) -> None:
        self.change(adapter, **{f"base_model.model.{BASE}mlp.down_proj.bias": np.ones(64, np.float32)})
        with pytest.raises(BadCheckpointError, match=r"down_proj\.bias: expected a weight, or one of"):
            with_adapters(base, adapter)

    def test_numbers_that_are_not_finite(self, base: Path, adapter: Path) -> None:
        broken = np.full((64, 4), np.nan, np.float32)
        self.change(adapter, **{f"base_model.model.{BASE}mlp.down_proj.lora_B.weight": broken})
        with pytest.raises(BadCheckpointError, match="expected finite numbers"):
            with_adapters(base, adapter)

    @pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
    def test_changes_that_leave_no_finite_weights(self, base: Path, tmp_path: Path, dora: bool) -> None:
        adapter = save_adapter(base, tmp_path / "adapter", use_dora=dora)
        module = f"base_model.model.{BASE}mlp.down_proj"
        huge = {f"{module}.lora_A.weight": np.full((4, 96), 1e30, np.float32)}
        huge[f"{module}.lora_B.weight"] = np.full((64, 4), 1e30, np.float32)
        self.change(adapter, **huge)
        checkpoint = with_adapters(base, adapter)
        with pytest.raises(BadCheckpointError, match=r"down_proj\.lora_B\.weight: expected finite weights"):
            read_rows(checkpoint, ModelTensor(Role.DOWN, 0), 0, 64)

    def test_a_resized_vocabulary(self, base: Path, adapter: Path) -> None:
        more = np.zeros((520, 64), np.float32)
        self.change(adapter, **{"base_model.model.lm_head.weight": more})
        with pytest.raises(
            BadCheckpointError, match=r"lm_head: expected shape \[512, 64\], found \[520, 64\]"
        ):
            with_adapters(base, adapter)

    def test_pickled_weights(self, base: Path, adapter: Path) -> None:
        (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
        with pytest.raises(BadCheckpointError, match=r"found adapter_model\.bin"):
            with_adapters(base, adapter)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("name", ["img_projection.0", "img_processor.vision_model.encoder.layers.0.mlp.fc1"])
def test_a_change_of_the_image_encoder_is_called_one(tmp_path: Path, name: str, saved: bool) -> None:
    checkpoint = write_tiny_phi3_v(tmp_path / "sees")
    encoder = open_checkpoint(checkpoint, id="sees", revision="local")
    module = f"model.vision_embed_tokens.{name}"
    rows, columns = encoder.tensors[f"{module}.weight"].shape
    parts = {"": (rows, columns)} if saved else {"lora_A.": (4, columns), "lora_B.": (rows, 4)}
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    kept = {
        f"base_model.model.{module}.{part}weight": np.ones(shape, np.float32) for part, shape in parts.items()
    }
    save_file(kept, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": [module], "bias": "none"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(NotSupportedError, match=f"{name}: expected a change of what reads text"):
        with_adapters(checkpoint, adapter)
