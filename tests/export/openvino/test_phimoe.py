"""The OpenVINO artifact of Phi-3.5-MoE: what the reference computes with its weights, OpenVINO does."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgephi.build.tensor_plans import plan_tensors
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.checkpoint.weights.source import Source
from edgephi.declared.recipe import Quant
from edgephi.declared.target import read_target
from edgephi.engines.openvino_genai import DATA_FILE
from edgephi.errors import NotSupportedError
from edgephi.export.openvino.expert_check import PRODUCTS_PER_LAYER, check_expert_kernels, check_graph
from edgephi.export.openvino.layout import lay_out
from edgephi.runtime.engines.openvino_genai.decoder import open_decoder
from tests.export.openvino.artifacts import (
    ROUNDING,
    Artifact,
    check_kernels,
    check_prefixes,
    check_reads_as_openvino,
    check_size,
    export,
    rewritten,
    some_ids,
)
from tests.export.openvino.oracle import MODEL, openvino, pipeline_answer
from tests.export.oracle import mean_kl
from tests.portable import portable
from tests.tiny_phimoe import write_tiny_phimoe


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_phimoe(tmp_path_factory.mktemp("phimoe") / "tiny")


@pytest.fixture(scope="module")
def artifact(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(tiny, tmp_path_factory.mktemp("phimoe") / "artifact")


class TestAgainstTheReference:
    def test_prompts(self, artifact: Artifact) -> None:
        check_prefixes(artifact, [1, 17, 512])

    @pytest.mark.parametrize("step", [1, 7])
    def test_in_steps(self, artifact: Artifact, step: int) -> None:
        ids = some_ids(40, seed=1)
        assert mean_kl(artifact.expected(ids), artifact.exact.prefill(ids, step=step)) <= ROUNDING

    def test_with_the_artifacts_own_options(self, artifact: Artifact) -> None:
        ids = some_ids(100, seed=2)
        expected = artifact.expected(ids)
        for step in (100, 32, 1):
            assert mean_kl(expected, artifact.unchanged.prefill(ids, step=step)) <= 1e-3

    def test_activations_stay_floats_whatever_the_target_asks_for(self, tiny: Path, tmp_path: Path) -> None:
        """As int8 they would send tokens to other experts."""
        made = export(tiny, tmp_path / "artifact", target=read_target("openvino"))
        assert made.unchanged.compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0
        ids = some_ids(100, seed=2)
        assert mean_kl(made.expected(ids), made.unchanged.prefill(ids)) <= 1e-3

    @pytest.mark.slow
    def test_every_length_around_the_original_context(self, tmp_path: Path) -> None:
        tiny = write_tiny_phimoe(tmp_path / "tiny", layers=1, hidden=128, ffn=64, long_magnitude=1.4)
        artifact = export(tiny, tmp_path / "artifact")
        check_prefixes(artifact, [1023, 1024, 1025, 2100, 4095, 4096, 4097], last=64)

    def test_the_long_factors_have_a_magnitude_of_their_own(self, tmp_path: Path) -> None:
        tiny = write_tiny_phimoe(tmp_path / "tiny", original_context=32, long_magnitude=1.4, context=1024)
        artifact = export(tiny, tmp_path / "artifact")
        check_prefixes(artifact, [31, 32, 33, 48])


QUANTS = [
    portable(group_size=128, method="rtn"),
    portable(group_size=32, symmetric=False, method="rtn"),
    portable(group_size=64, symmetric=False, embedding_bits=8, head_bits=8, method="rtn"),
    portable(bits=8, group_size=32, embedding_bits=8, head_bits=8, method="rtn"),
    portable(bits=8, group_size=64, embedding_bits=8, head_bits=8, symmetric=False, method="rtn"),
]


@pytest.mark.parametrize(
    "quant", QUANTS, ids=lambda quant: f"{quant.bits}-{quant.group_size}-{quant.symmetric}"
)
def test_every_kind_of_quantisation(tmp_path: Path, quant: Quant) -> None:
    tiny = write_tiny_phimoe(tmp_path / "tiny", layers=1, hidden=256, ffn=192, experts=5)
    artifact = export(tiny, tmp_path / "artifact", quant=quant, context=64)
    check_prefixes(artifact, [1, 40])
    check_reads_as_openvino(artifact)
    check_kernels(artifact)
    check_size(artifact)


def test_experts_with_bits_of_their_own(tmp_path: Path, tiny: Path) -> None:
    quant = portable(method="rtn", group_size=32)
    keep = dataclasses.replace(quant.keep, tensors=("model.layers.1.*experts*",))
    artifact = export(tiny, tmp_path / "artifact", quant=dataclasses.replace(quant, keep=keep), context=64)
    check_prefixes(artifact, [40])
    check_reads_as_openvino(artifact)
    experts = [types[1] for kind, _, types in artifact.exact.layers() if kind == "GatherMatmul"]
    assert experts == ["u4"] * 3 + ["u8"] * 3


@pytest.mark.parametrize("groups", ["odd", "even"])
def test_zero_points_of_an_odd_number_of_groups(tmp_path: Path, groups: str) -> None:
    # 4-bit zero points of a row of three groups would end inside a byte
    tiny = write_tiny_phimoe(tmp_path / "tiny", layers=1, ffn=96 if groups == "odd" else 64, experts=3)
    quant = portable(method="rtn", group_size=32, symmetric=False)
    artifact = export(tiny, tmp_path / "artifact", quant=quant, context=64)
    check_prefixes(artifact, [40])
    check_reads_as_openvino(artifact)


class TestRouting:
    """Equal scores: of these torch, and so the model, chooses the first."""

    @pytest.fixture(scope="class")
    @staticmethod
    def tied(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
        """An artifact whose routers cannot tell many experts apart."""
        artifact = export(tiny, tmp_path_factory.mktemp("tied") / "artifact")
        checkpoint = artifact.checkpoint
        plans = plan_tensors(checkpoint.architecture, artifact.quant)
        tensors, _ = lay_out(checkpoint.sources, checkpoint.architecture, plans)
        data = np.memmap(artifact.folder / DATA_FILE, np.uint8, "r+")
        for layer, groups in ((0, 4), (1, 1)):
            region = tensors[ModelTensor(Role.ROUTER, layer)].regions[0]
            router = data[region.offset : region.offset + region.size].view(np.float32).reshape(16, -1)
            router[:] = np.repeat(router[:groups], 16 // groups, axis=0) * (1 if layer == 0 else 0)
        data.flush()
        return artifact

    @pytest.mark.parametrize("count", [1, 3, 64, 257])
    def test_the_first_of_equals_is_chosen(self, tied: Artifact, count: int) -> None:
        check_prefixes(tied, [count])

    def test_token_by_token(self, tied: Artifact) -> None:
        ids = some_ids(20)
        assert mean_kl(tied.expected(ids), tied.exact.prefill(ids, step=1)) <= ROUNDING


class TestKernels:
    def test_the_plugin_uses_its_kernels(self, artifact: Artifact) -> None:
        check_kernels(artifact)

    def test_a_build_looks_for_them(self, artifact: Artifact) -> None:
        check_graph(artifact.folder / MODEL, PRODUCTS_PER_LAYER * 2)
        architecture = artifact.checkpoint.architecture
        check_expert_kernels(architecture, plan_tensors(architecture, artifact.quant))

    @pytest.fixture(scope="class")
    @staticmethod
    def unrecognised(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
        """With another function in the place of a Swish, which the plugin knows no kernel for."""
        artifact = export(tiny, tmp_path_factory.mktemp("unrecognised") / "artifact")
        rewritten(
            artifact.folder / MODEL,
            lambda text: text.replace('type="Swish" version="opset4"', 'type="Mish" version="opset4"', 1),
        )
        return artifact

    def test_a_build_refuses_what_would_compute_all_experts(self, unrecognised: Artifact) -> None:
        with pytest.raises(NotSupportedError, match="only the chosen experts, in 6 products, found 3"):
            check_graph(unrecognised.folder / MODEL, PRODUCTS_PER_LAYER * 2)

    def test_so_does_the_runtime(self, unrecognised: Artifact) -> None:
        with pytest.raises(NotSupportedError, match="the experts that are chosen, in 6 products, found 3"):
            open_decoder(openvino, unrecognised.folder / MODEL, device="CPU")

    @pytest.mark.parametrize("options", [{}, {"ATTENTION_BACKEND": "SDPA"}], ids=["default", "sdpa"])
    def test_the_engines_own_pipeline_answers(self, artifact: Artifact, options: dict[str, str]) -> None:
        ids = some_ids(30, seed=4)
        answer = pipeline_answer(artifact.folder, ids, 12, **options)
        logits = artifact.expected([*ids, *answer[:-1]])[len(ids) - 1 :]
        for row, token in zip(logits, answer, strict=True):
            assert row.max() - row[token] < 0.05


class TestFiles:
    def test_our_reader_is_openvinos(self, artifact: Artifact) -> None:
        check_reads_as_openvino(artifact)

    def test_the_size_is_known_beforehand(self, artifact: Artifact) -> None:
        check_size(artifact)

    def test_the_configuration_is_the_checkpoints(self, artifact: Artifact) -> None:
        theirs = (artifact.checkpoint.folder / "config.json").read_bytes()
        assert (artifact.folder / "config.json").read_bytes() == theirs


def test_rows_of_any_sources_come_to_their_places(artifact: Artifact) -> None:
    """Also where a checkpoint holds gate and up of all experts in one tensor."""
    architecture = artifact.checkpoint.architecture
    tensor = ModelTensor(Role.EXPERTS_GATE_UP, 0)
    experts, both, _ = architecture.tensor_shapes()[tensor]
    whole = (Source("all", range(experts * both), range(experts * both)),)
    sources = {**dict.fromkeys(architecture.tensor_shapes(), ()), tensor: whole}
    placed = lay_out(sources, architecture, plan_tensors(architecture, artifact.quant))[0][tensor]
    width = both // 2
    for source in placed.sources:
        for row, into in zip(source.rows, source.into, strict=True):
            expert, part, own = row // both, row % both // width, row % width
            assert into == (part * experts + expert) * width + own
