"""Phi-3.5-MoE as GGUF, which llama.cpp computes with other weights of experts: refused, or accepted and said.

All but the routing is right: held against transformers with each expert counted once, as llama.cpp then does.
Weights are read back with the `gguf` library.
"""

import dataclasses
import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize
from transformers import PhimoeForCausalLM
from transformers.models.phimoe import modeling_phimoe

from edgephi.build.build import build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.bundle.manifest import read_manifest
from edgephi.checkpoint.checkpoint import CheckpointWeights, open_checkpoint
from edgephi.checkpoint.config import load_architecture
from edgephi.checkpoint.roles import Role
from edgephi.declared.recipe import read_recipe
from edgephi.declared.target import read_target
from edgephi.errors import NotSupportedError, WrongRoutingError
from edgephi.export.gguf import exporter
from edgephi.reference.forward import final_hidden_states, logits
from edgephi.runtime import load
from edgephi.runtime.adapter import open_engine
from edgephi.steps import silent
from tests.cli.conftest import Edgephi, edgephi, is_one_error
from tests.export.oracle import Floats, mean_kl
from tests.portable import portable
from tests.tiny_checkpoint import write_weights
from tests.tiny_phi3small import write_tiny_phi3small
from tests.tiny_phimoe import MAGNITUDE, write_tiny_phimoe

__all__ = ["edgephi"]

LIMIT = 1e-3
"""Of llama.cpp's int8 activations."""

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate_inp": "block_sparse_moe.gate",
}
_EXPERTS = {"ffn_gate_exps": "w1", "ffn_down_exps": "w2", "ffn_up_exps": "w3"}


def published(folder: Path) -> dict[str, Floats]:
    """The weights of the artifact by the checkpoint's names, as they are stored."""
    found: dict[str, Floats] = {}
    for tensor in gguf.GGUFReader(folder / "model.gguf").tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        array = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32).reshape(shape)
        block = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", tensor.name)
        assert block is not None
        layer = "" if block[1] is None else f"model.layers.{block[1]}."
        if block[2] in _EXPERTS:
            for number, expert in enumerate(array):
                name = f"{layer}block_sparse_moe.experts.{number}.{_EXPERTS[block[2]]}.weight"
                found[name] = expert
        elif not block[2].startswith("rope_factors"):
            found[f"{layer}{_NAMES[block[2]]}.{block[3]}"] = array
    return found


def built(folder: Path, tiny: Path, **options: Any) -> Path:
    """8 bits: with 4, what rounding leaves of means shows in rows as short as these."""
    recipe = dataclasses.replace(read_recipe("default"), quant=portable(bits=8))
    request = BuildRequest(str(tiny), read_target("gguf"), recipe, folder, verify="off", **options)
    build(request, find_checkpoint(str(tiny), recipe, None, progress=False), silent)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_phimoe(tmp_path_factory.mktemp("phimoe") / "tiny", dtype="F32")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    return built(tmp_path_factory.mktemp("gguf") / "bundle", tiny, accept_wrong_routing=True)


def some_ids(count: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(0).integers(3, 500, count)]


class TestRefusal:
    def test_it_says_what_is_wrong_and_what_can_be_done(
        self, edgephi: Edgephi, tiny: Path, tmp_path: Path
    ) -> None:
        done = edgephi("build", tiny, "--target", "gguf", "-o", tmp_path / "bundle")
        assert is_one_error(done, 3)
        assert "Phi-3.5-MoE on llama.cpp: expected SparseMixer's weights of experts" in done.stderr
        assert "--accept-wrong-routing" in done.stderr
        assert not (tmp_path / "bundle").exists()

    def test_two_magnitudes_cannot_be_accepted(self, tmp_path: Path) -> None:
        folder = write_tiny_phimoe(tmp_path / "tiny", long_magnitude=1.4, layers=1)
        with pytest.raises(NotSupportedError, match="expected one magnitude"):
            built(tmp_path / "bundle", folder, accept_wrong_routing=True)

    @pytest.mark.parametrize("target", ["gguf", "qnn"])
    def test_phi_3_small_cannot_be_accepted(self, tmp_path: Path, target: str) -> None:
        from edgephi.build.plan import make_plan

        architecture = load_architecture(write_tiny_phi3small(tmp_path / "tiny"))
        with pytest.raises(NotSupportedError, match=r"Phi-3-small on .*block-sparse attention"):
            make_plan(
                "tiny", architecture, read_recipe("default"), read_target(target), accept_wrong_routing=True
            )

    def test_no_phone_holds_the_experts(self, tiny: Path) -> None:
        from edgephi.build.plan import make_plan

        with pytest.raises(NotSupportedError, match=r"Phi-3\.5-MoE on qnn") as caught:
            make_plan(
                "tiny",
                load_architecture(tiny),
                read_recipe("default"),
                read_target("qnn"),
                accept_wrong_routing=True,
            )
        assert not isinstance(caught.value, WrongRoutingError)


class TestAgainstTransformers:
    def test_with_each_expert_counted_once(
        self, tiny: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Layer norms, biases, experts, LongRoPE's magnitude: the rest of the model is the published one."""
        shutil.copytree(tiny, tmp_path / "again")
        weights = published(bundle / "model")
        for name in weights:
            if name.endswith("gate.weight"):
                weights[name] = weights[name] * np.float32(2**10)
            elif name.endswith("w2.weight"):
                weights[name] = weights[name] / np.float32(2)
        write_weights(tmp_path / "again", weights, dtype="F32")
        model = PhimoeForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32).eval()
        mixed = modeling_phimoe.sparsemixer

        def once(scores: Any, **options: Any) -> Any:
            found, experts = mixed(scores, **options)
            return torch.ones_like(found), experts

        ids = some_ids(200)
        with torch.no_grad():
            published_model = model(torch.tensor([ids])).logits[0].numpy()
            monkeypatch.setattr(modeling_phimoe, "sparsemixer", once)
            expected = model(torch.tensor([ids])).logits[0].numpy()
        engine = open_engine(bundle, read_manifest(bundle), provider="cpu")
        found = np.concatenate([*engine.logits(ids, step=64)])
        # A score that lies within rounding of another one sends a token elsewhere, now and then.
        per_token = np.array([mean_kl(expected[[row]], found[[row]]) for row in range(len(ids))])
        assert np.median(per_token) <= LIMIT
        assert (per_token > 0.05).mean() < 0.05
        assert mean_kl(published_model, found) > 5 * np.median(per_token)

    def test_in_long_texts_too(self, tmp_path: Path) -> None:
        """llama.cpp knows both of LongRoPE's sets of factors, and our runtime which of them holds."""
        folder = write_tiny_phimoe(tmp_path / "tiny", layers=1, original_context=256, context=1024)
        bundle = built(tmp_path / "bundle", folder, accept_wrong_routing=True)
        weights = exporter.artifact_weights(bundle / "model", load_architecture(folder))
        engine = open_engine(bundle, read_manifest(bundle), provider="cpu")
        for count in (200, 300):
            ids = some_ids(count)
            [hidden] = final_hidden_states([weights], [ids])
            expected, found = logits(weights, hidden), np.concatenate([*engine.logits(ids, step=64)])
            per_token = [mean_kl(expected[[row]], found[[row]]) for row in range(count)]
            assert np.median(per_token) <= 5 * LIMIT


class TestStoredWeights:
    def test_our_reader_gives_the_models_own(self, tiny: Path, bundle: Path) -> None:
        """Less means, and without the factors of routers and experts, which are powers of two."""
        checkpoint = open_checkpoint(tiny, id="tiny", revision="local")
        ours = exporter.artifact_weights(bundle / "model", checkpoint.architecture)
        original = CheckpointWeights(checkpoint)
        for tensor, shape in checkpoint.architecture.tensor_shapes().items():
            count = int(np.prod(shape[:-1])) if len(shape) > 1 else shape[0]
            read, expected = ours.rows(tensor, 0, count), original.rows(tensor, 0, count)
            np.testing.assert_array_equal(ours.rows(tensor, count // 3, count), read[count // 3 :])
            if tensor.role is Role.EMBEDDING:
                expected = expected - expected.mean(axis=1, keepdims=True)
            elif tensor.role in (Role.ATTENTION_OUTPUT, Role.EXPERTS_DOWN):
                stack = expected.reshape(-1, *shape[-2:])
                expected = (stack - stack.mean(axis=1, keepdims=True)).reshape(expected.shape)
            elif tensor.role is Role.ATTENTION_OUTPUT_BIAS:
                expected = expected - expected.mean()
            error = np.square(read - expected).mean() / np.square(expected).mean()
            assert error < (0.02 if len(shape) > 1 and tensor.role is not Role.ROUTER else 1e-9), tensor

    def test_what_is_added_to_the_stream_has_no_mean(self, bundle: Path) -> None:
        for name, array in published(bundle / "model").items():
            if name.endswith(("o_proj.weight", "w2.weight")):
                assert np.abs(array.mean(axis=0)).max() < 0.05 * array.std()
            elif name.endswith("o_proj.bias"):
                assert abs(array.mean()) < 1e-6

    def test_the_header_names_experts_and_magnitude(self, bundle: Path) -> None:
        fields = gguf.GGUFReader(bundle / "model/model.gguf").fields
        found = {
            name.removeprefix("phimoe."): field.contents()
            for name, field in fields.items()
            if name.startswith("phimoe.")
        }
        assert fields["general.architecture"].contents() == "phimoe"
        assert found["expert_count"] == 16
        assert found["expert_used_count"] == 2
        assert found["rope.scaling.attn_factor"] == pytest.approx(MAGNITUDE)


class TestWarning:
    def test_wherever_it_runs(self, edgephi: Edgephi, bundle: Path) -> None:
        deviation = read_manifest(bundle).deviation
        assert "Phi-3.5-MoE on llama.cpp" in deviation
        said: list[str] = []
        load(bundle, warn=said.append)
        assert deviation in said
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load(bundle)
        assert deviation in [str(each.message) for each in caught]
        done = edgephi("run", bundle, "--max-tokens", "2", "hello")
        assert done.returncode == 0
        assert f"warning: {deviation}" in done.stderr
        assert "warning" in edgephi("inspect", bundle).stdout
        assert json.loads(edgephi("inspect", bundle, "--json").stdout)["deviation"] == deviation

    def test_in_a_plan(self, edgephi: Edgephi, tiny: Path) -> None:
        asked = ("plan", tiny, "--target", "gguf", "--accept-wrong-routing")
        assert "warning" in edgephi(*asked).stdout
        assert "Phi-3.5-MoE" in json.loads(edgephi(*asked, "--json").stdout)["deviation"]

    def test_the_certificate_measures_it_and_lets_it_pass(self, tiny: Path, tmp_path: Path) -> None:
        recipe = dataclasses.replace(
            read_recipe("default"),
            quant=portable(),
            gate=dataclasses.replace(read_recipe("default").gate, answers=False, export_error_kl=1e-4),
        )
        request = BuildRequest(
            str(tiny), read_target("gguf"), recipe, tmp_path / "bundle", accept_wrong_routing=True
        )
        manifest = build(request, find_checkpoint(str(tiny), recipe, None, progress=False), silent).manifest
        certificate = manifest.certificate
        assert certificate.export_error is not None
        assert certificate.end_to_end is not None
        assert certificate.export_error.kl_mean > 1e-3
        assert certificate.end_to_end.kl_mean > 1e-3
        assert "the export error is no rounding" in certificate.note
        assert "--accept-wrong-routing" in manifest.provenance.command

    def test_a_build_that_chooses_goes_on(self, tiny: Path, tmp_path: Path) -> None:
        """It plans again with what it has chosen."""
        quant = read_recipe("default").quant
        keep = dataclasses.replace(quant.keep, auto=0.2)
        recipe = dataclasses.replace(read_recipe("default"), quant=dataclasses.replace(quant, keep=keep))
        request = BuildRequest(
            str(tiny),
            read_target("gguf"),
            recipe,
            tmp_path / "bundle",
            verify="off",
            accept_wrong_routing=True,
        )
        located = find_checkpoint(str(tiny), recipe, None, progress=False)
        manifest = build(request, located, silent).manifest
        assert manifest.quant.kept
        assert manifest.deviation

    def test_other_targets_have_nothing_to_accept(self, tiny: Path, tmp_path: Path) -> None:
        recipe = dataclasses.replace(read_recipe("default"), quant=portable())
        request = BuildRequest(
            str(tiny),
            read_target("mlx"),
            recipe,
            tmp_path / "bundle",
            verify="off",
            accept_wrong_routing=True,
        )
        located = find_checkpoint(str(tiny), recipe, None, progress=False)
        assert build(request, located, silent).manifest.deviation == ""
