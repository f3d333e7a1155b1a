"""The MLX artifact of Phi-3.5-MoE: our class computes what transformers computes with its weights.

As in `test_exporter`, these come out of MLX's own reader and `mx.dequantize`.
"""

import dataclasses
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version

from edgephi.build.plan import make_plan
from edgephi.checkpoint.checkpoint import open_checkpoint
from edgephi.declared.recipe import read_recipe
from edgephi.declared.target import read_target
from edgephi.errors import NotSupportedError
from edgephi.export.mlx import exporter
from edgephi.export.tensor_names import tensor_name
from tests.export.mlx.test_exporter import Exported, dequantised, export_opened, some_ids
from tests.export.oracle import Floats, expected_logits, mean_kl
from tests.portable import portable
from tests.tiny_checkpoint import write_weights
from tests.tiny_phimoe import write_tiny_phimoe

mx: Any = pytest.importorskip("mlx.core")

ROUNDING = 1e-9  # nats, of float32


class ExportedExperts(Exported):
    """A tiny Phi-3.5-MoE and its artifact."""

    @cached_property
    def model(self) -> Any:
        """Our classes, by the hook of mlx-lm's loader."""
        from mlx_lm.utils import load_model

        from edgephi.runtime.engines.mlx_lm.models import classes_of

        model, _ = load_model(self.folder, get_model_classes=lambda config: classes_of(config["model_type"]))
        return model

    @cached_property
    def theirs(self) -> Any:
        """mlx-lm's own classes."""
        from mlx_lm.utils import load_model

        return load_model(self.folder)[0]

    @cached_property
    def oracle(self) -> Any:
        """Transformers with the weights as MLX dequantises them, in a checkpoint with the published names."""
        from transformers import PhimoeForCausalLM

        again = self.folder.parent / "again"
        shutil.copytree(self.checkpoint.folder, again)
        write_weights(again, published(dequantised(self.folder)), dtype="F32")
        return PhimoeForCausalLM.from_pretrained(again, dtype=torch.float32).eval()


def published(stored: dict[str, Floats]) -> dict[str, Floats]:
    """Weights by the names of the published checkpoint: each expert by itself."""
    found = {}
    for name, array in stored.items():
        stack, _, part = name.partition("switch_mlp.")
        if not part:
            found[name] = array
            continue
        own = {"gate_proj.weight": "w1", "down_proj.weight": "w2", "up_proj.weight": "w3"}[part]
        found |= {f"{stack}experts.{number}.{own}.weight": each for number, each in enumerate(array)}
    return found


def export(folder: Path, **options: Any) -> ExportedExperts:
    quant = options.pop("quant", None)
    floats = options.pop("floats", "float32")
    tiny = write_tiny_phimoe(folder / "checkpoint", **options)
    checkpoint = open_checkpoint(tiny, id="tiny", revision="local")
    (folder / "artifact").mkdir()
    exported = export_opened(checkpoint, folder / "artifact", quant=quant, floats=floats)
    return ExportedExperts(exported.checkpoint, exported.folder, exported.context)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ExportedExperts:
    return export(tmp_path_factory.mktemp("phimoe"))


class TestAgainstTransformers:
    def test_prompts(self, exported: ExportedExperts) -> None:
        ids = some_ids(512)
        expected = expected_logits(exported.oracle, ids)
        assert expected.std(axis=1).min() > 0.05
        for length in (1, 17, 512):
            assert mean_kl(expected[:length], exported.prefill(ids[:length])) <= ROUNDING

    def test_token_by_token(self, exported: ExportedExperts) -> None:
        ids = some_ids(24, seed=1)
        assert mean_kl(expected_logits(exported.oracle, ids), exported.stepped(ids)) <= ROUNDING

    @pytest.mark.slow
    def test_up_to_the_largest_context(self, tmp_path: Path) -> None:
        exported = export(tmp_path, layers=1, hidden=128, ffn=64)
        assert exported.context == 4096
        ids = some_ids(4096)
        expected = expected_logits(exported.oracle, ids)
        for length in (1023, 1024, 1025, 2100, 4095, 4096):
            assert mean_kl(expected[:length], exported.prefill(ids[:length])) <= ROUNDING

    @pytest.mark.parametrize("bits", [4, 8])
    def test_experts_with_bits_of_their_own(self, tmp_path: Path, bits: int) -> None:
        quant = portable(bits=4, group_size=64, embedding_bits=8, head_bits=8)
        if bits == 8:
            keep = dataclasses.replace(quant.keep, tensors=("*experts*",))
            quant = dataclasses.replace(quant, keep=keep)
        exported = export(tmp_path, layers=1, quant=quant)
        modules = [name for name in exported.config["quantization"] if "switch_mlp" in name]
        assert len(modules) == (3 if bits == 8 else 0)
        ids = some_ids(40)
        assert mean_kl(expected_logits(exported.oracle, ids), exported.prefill(ids)) <= ROUNDING


def test_mlx_lms_own_class_opens_it_and_computes_the_same_since_0_32_1(exported: ExportedExperts) -> None:
    """Older ones route otherwise: the documents say so."""
    import importlib.metadata

    ids = some_ids(40)
    found = np.array(exported.theirs(mx.array([ids]))[0])
    divergence = mean_kl(expected_logits(exported.oracle, ids), found)
    is_right = Version(importlib.metadata.version("mlx-lm")) >= Version("0.32.1")
    assert (divergence <= ROUNDING) == is_right


@pytest.mark.parametrize("floats", ["float32", "float16"])
def test_our_reader_reads_what_mlx_reads(tmp_path: Path, floats: str) -> None:
    exported = export(tmp_path, layers=1, floats=floats)
    architecture = exported.checkpoint.architecture
    ours, by_mlx = exporter.artifact_weights(exported.folder, architecture), dequantised(exported.folder)
    for tensor, shape in architecture.tensor_shapes().items():
        name = tensor_name(tensor)
        if "gate_up_proj" in name:
            place = name.replace("experts.gate_up_proj", "switch_mlp.{}_proj")
            expected = np.concatenate([by_mlx[place.format(part)] for part in ("gate", "up")], axis=1)
        elif "qkv_proj" in name:
            place = name.replace("qkv_proj", "{}_proj")
            expected = np.concatenate([by_mlx[place.format(part)] for part in "qkv"])
        else:
            expected = by_mlx[name.replace("experts.down_proj", "switch_mlp.down_proj")]
        assert expected.shape == shape
        rows = expected.reshape(-1, shape[-1]) if len(shape) > 1 else expected
        np.testing.assert_array_equal(ours.rows(tensor, 0, len(rows)), rows, strict=True)
        start, stop = len(rows) // 3, len(rows) // 3 * 2 + 1
        np.testing.assert_array_equal(ours.rows(tensor, start, stop), rows[start:stop], strict=True)


def test_every_expert_is_the_checkpoints(exported: ExportedExperts) -> None:
    """Quantised weights lie near those that they stand for, and near no others."""
    for name, stored in published(dequantised(exported.folder)).items():
        entry = exported.checkpoint.tensors[name]
        assert entry.shape == stored.shape
        if ".experts." in name:
            from edgephi.checkpoint.weights.safetensors import read_tensor_rows

            original = read_tensor_rows(entry, range(entry.shape[0]))
            assert np.square(stored - original).mean() < 0.05 * np.square(original).mean(), name


class TestContextLimit:
    def test_longrope_ends_it(self, exported: ExportedExperts) -> None:
        architecture = exported.checkpoint.architecture
        target, recipe = read_target("mlx"), read_recipe("default")
        assert make_plan("tiny", architecture, recipe, target).context == 4096
        with pytest.raises(NotSupportedError, match="context 4097: mlx-lm never changes"):
            make_plan("tiny", architecture, recipe, target, context=4097)

    def test_the_magnitude_is_the_models_own(self, exported: ExportedExperts) -> None:
        assert exported.model.layers[0].self_attn.rope._scale == 1.243163121016122


def test_a_head_that_no_class_has_is_refused(tmp_path: Path) -> None:
    tiny = write_tiny_phimoe(tmp_path, layers=1, tied=True)
    architecture = open_checkpoint(tiny, id="tiny", revision="local").architecture
    with pytest.raises(NotSupportedError, match=r"Phi-3.5-MoE on mlx-lm: .* a head without a bias"):
        exporter.check_architecture(architecture)
