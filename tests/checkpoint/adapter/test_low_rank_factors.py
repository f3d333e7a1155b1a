"""An adapter's matrices for the model's tensors are PEFT's change of them, and more than that is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgephi.checkpoint.adapter.locate_adapter import locate_adapters
from edgephi.checkpoint.adapter.low_rank_factors import LowRankFactors, low_rank_factors
from edgephi.checkpoint.checkpoint import open_checkpoint, read_rows
from edgephi.checkpoint.roles import HEAD, ModelTensor
from edgephi.commands import edgephi_command
from edgephi.errors import BadCheckpointError, NotSupportedError
from tests.checkpoint.adapter.peft_adapter import merged_by_peft, save_adapter, save_exchange
from tests.tiny_checkpoint import write_tiny_checkpoint

FILE = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("base") / "base", hidden=64, ffn=96)


def factors_of(base: Path, adapter: Path | str) -> dict[ModelTensor, LowRankFactors]:
    (located,) = locate_adapters([str(adapter)])
    return low_rank_factors(open_checkpoint(base, id="base", revision="local"), located)


@pytest.mark.parametrize("split", [False, True], ids=["fused", "split"])
def test_their_product_is_what_peft_adds(base: Path, tmp_path: Path, split: bool) -> None:
    adapter = save_adapter(base, tmp_path / "adapter", split=split, use_rslora=True)
    expected = merged_by_peft(base, adapter, split=split)
    checkpoint = open_checkpoint(base, id="base", revision="local")
    found = factors_of(base, adapter)
    assert len(found) == 4 * checkpoint.architecture.layers
    for tensor, own in found.items():
        ((source, *_),) = [checkpoint.sources[tensor]]
        whole = expected[source.tensor]
        plain = read_rows(checkpoint, tensor, 0, len(whole))
        np.testing.assert_allclose(own.left @ own.right, whole - plain, atol=2e-6)


def test_a_factor_makes_them_stronger(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(base, tmp_path / "adapter")
    once, twice = factors_of(base, adapter), factors_of(base, f"{adapter}@-2")
    for tensor, own in once.items():
        np.testing.assert_allclose(twice[tensor].left @ twice[tensor].right, -2 * own.left @ own.right)


class TestTheHead:
    """PEFT saves it whole beside a change of it, as it was before."""

    @pytest.fixture
    def adapter(self, base: Path, tmp_path: Path) -> Path:
        folder = save_exchange(base, tmp_path / "adapter", 300, 301)
        assert "base_model.model.lm_head.base_layer.weight" in load_file(folder / FILE)
        return folder

    def test_the_same_weights_are_no_change(self, base: Path, adapter: Path) -> None:
        checkpoint = open_checkpoint(base, id="base", revision="local")
        ((tensor, own),) = factors_of(base, adapter).items()
        head = read_rows(checkpoint, HEAD, 0, 512)
        assert tensor == HEAD
        np.testing.assert_allclose((head + own.left @ own.right)[[300, 301]], head[[301, 300]], atol=1e-6)

    def test_other_weights_can_be_merged_only(self, base: Path, adapter: Path) -> None:
        tensors = load_file(adapter / FILE)
        tensors["base_model.model.lm_head.base_layer.weight"][511, 3] += 1
        save_file(tensors, adapter / FILE)
        with pytest.raises(NotSupportedError, match="lm_head: expected low-rank changes alone, found other"):
            factors_of(base, adapter)

    def test_of_another_size_too(self, base: Path, adapter: Path) -> None:
        tensors = load_file(adapter / FILE)
        tensors["base_model.model.lm_head.base_layer.weight"] = np.zeros((520, 64), np.float32)
        save_file(tensors, adapter / FILE)
        with pytest.raises(NotSupportedError, match="lm_head: expected low-rank changes alone, found other"):
            factors_of(base, adapter)


class TestMergeOnly:
    @pytest.mark.parametrize(
        ("options", "found"),
        [
            ({"use_dora": True}, "found DoRA's magnitudes"),
            ({"target_modules": ["embed_tokens"]}, "found a change of the embedding"),
            ({"modules_to_save": ["lm_head"]}, "found other weights of it whole"),
        ],
        ids=["DoRA", "embedding", "whole weights"],
    )
    def test_is_refused_with_the_way_to_merge_it(
        self, base: Path, tmp_path: Path, options: dict[str, Any], found: str
    ) -> None:
        adapter = save_adapter(base, tmp_path / "adapter", **options)
        with pytest.raises(NotSupportedError, match=found) as refused:
            factors_of(base, adapter)
        command = edgephi_command("build", "MODEL", "--target", "T", "--adapter", "ADAPTER")
        assert refused.value.hint == f"merge it: `{command}`"

    def test_an_adapter_of_another_model_is_none_for_this(self, base: Path, tmp_path: Path) -> None:
        adapter = save_adapter(base, tmp_path / "adapter")
        other = write_tiny_checkpoint(tmp_path / "other", hidden=128, ffn=96)
        with pytest.raises(BadCheckpointError, match="expected a change of shape"):
            factors_of(other, adapter)


def test_a_tiny_and_a_huge_matrix_are_brought_together() -> None:
    random = np.random.default_rng(3)
    left = (random.standard_normal((6, 2)) * 1e-8).astype(np.float32)
    right = (random.standard_normal((2, 5)) * 5e6).astype(np.float32)
    found = LowRankFactors(left, right).balanced()
    largest = [np.abs(matrix).max() for matrix in (found.left, found.right)]
    assert 0.5 <= largest[0] / largest[1] <= 2
    np.testing.assert_array_equal(found.left / left, found.left[0, 0] / left[0, 0])  # a power of two
    np.testing.assert_allclose(found.left @ found.right, left @ right, rtol=1e-6)


def test_nothing_is_left_as_it_is() -> None:
    zeros = LowRankFactors(np.zeros((3, 1), np.float32), np.ones((1, 2), np.float32))
    np.testing.assert_array_equal(zeros.balanced().right, zeros.right)
