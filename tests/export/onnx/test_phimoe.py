"""Phi-3.5-MoE as an ONNX artifact: what the reference and transformers compute, the engine computes too."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edgephi.build.tensor_plans import plan_tensors
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.checkpoint.tokenizer import encode
from edgephi.declared.recipe import Keep, Quant
from edgephi.declared.target import Kernels, read_target
from edgephi.errors import NotSupportedError
from edgephi.export.onnx import exporter
from edgephi.export.tensor_names import tensor_name
from edgephi.reference.evaluation_text import passages
from tests.demo.moe_demo import MOE_DEMO
from tests.export.onnx.artifacts import (
    FLOAT16,
    FLOAT32,
    GROUPS_OF_32,
    INT8,
    LIMIT,
    Artifact,
    append,
    check,
    check_opens,
    check_reads_as_the_onnx_library,
    divergences,
    export,
    some_ids,
)
from tests.export.oracle import expected_logits, tensors_of, transformers_model
from tests.phi_3_chat import as_phi_3
from tests.portable import portable
from tests.tiny_phimoe import write_tiny_phimoe

CONTEXT = 8192
SWITCH = 4096


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_phimoe(tmp_path_factory.mktemp("tiny") / "phimoe")


@pytest.fixture(scope="module")
def exact(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """With float32 activations."""
    return export(tiny, tmp_path_factory.mktemp("exact") / "model", context=CONTEXT)


class TestAgainstTheReference:
    @pytest.mark.parametrize("length", [1, 17, 512, 1025])
    def test_one_prefill(self, exact: Artifact, length: int) -> None:
        check(exact, some_ids(length), piece=length)

    @pytest.mark.parametrize(("length", "piece"), [(40, 1), (200, 33)])
    def test_in_pieces(self, exact: Artifact, length: int, piece: int) -> None:
        check(exact, some_ids(length, seed=1), piece=piece)

    def test_after_a_rewind(self, exact: Artifact) -> None:
        ids = some_ids(90, seed=2)
        generator = exact.generator(100)
        append(generator, [*ids[:50], 7, 8, 9], 53)
        generator.rewind_to(50)
        found = append(generator, ids[50:], 40)
        assert divergences(exact.expected(ids)[50:], found).mean() <= LIMIT

    @pytest.mark.parametrize("length", [2100, SWITCH - 1, SWITCH, SWITCH + 1])
    def test_around_the_original_context(self, exact: Artifact, length: int) -> None:
        check(exact, some_ids(length, seed=3), piece=length)

    def test_in_pieces_that_are_told_how_long_the_text_is(self, exact: Artifact) -> None:
        ids = some_ids(SWITCH + 30, seed=3)
        found = append(exact.generator(len(ids), told=len(ids)), ids, 512)
        assert divergences(exact.expected(ids), found).mean() <= LIMIT

    def test_an_answer_that_passes_the_original_context(self, exact: Artifact) -> None:
        """The engine prefills again there: each step's logits are those of a fresh prefill."""
        generator = exact.generator(CONTEXT)
        generator.append_tokens(some_ids(SWITCH - 2, seed=4))
        computed = []
        for _ in range(5):
            generator.generate_next_token()
            computed.append(generator.get_output("logits")[0])
        assert sorted(len(logits) for logits in computed)[-2:] == [SWITCH - 2, SWITCH + 1]
        tokens = [int(token) for token in generator.get_sequence(0)]
        for steps, logits in enumerate(computed):
            if steps in (2, 3):  # the last one before, and the first one past
                expected = exact.expected(tokens[: SWITCH - 2 + steps])[-1:]
                assert divergences(expected, logits[-1:]).mean() <= LIMIT


def test_transformers_says_the_same(exact: Artifact) -> None:
    ids = some_ids(300, seed=5)
    model = transformers_model(exact.checkpoint.folder, exact.folder)
    found = exact.in_pieces(ids, 300)
    assert divergences(expected_logits(model, ids), found).mean() <= LIMIT


@pytest.mark.parametrize("kernels", [INT8, FLOAT16], ids=["int8", "float16"])
def test_coarser_activations_change_little_but_near_ties(
    tiny: Path, tmp_path: Path, kernels: Kernels
) -> None:
    """Where another expert was nearly as good, rounding may take it: for the median token it does not."""
    artifact = export(tiny, tmp_path / "model", kernels=kernels, context=512)
    ids = some_ids(300, seed=6)
    assert np.median(divergences(artifact.expected(ids), artifact.in_pieces(ids, 300))) <= 1e-3


def test_a_trained_router_takes_the_same_experts_with_int8_activations(tmp_path: Path) -> None:
    """Of those before it none are rounded, so its near ties are decided as the reference decides them."""
    artifact = export(MOE_DEMO, tmp_path / "model", kernels=INT8, context=1024)
    text = "".join(passage.text for passage in passages(as_phi_3, "device"))
    ids = encode(MOE_DEMO, text)[:500]
    found = divergences(artifact.expected(ids), artifact.in_pieces(ids, 250))
    assert found.mean() <= 1e-3
    assert np.median(found) <= 1e-6


def test_only_experts_and_head_have_the_targets_accuracy(tiny: Path, tmp_path: Path) -> None:
    artifact = export(tiny, tmp_path / "model", kernels=INT8, context=64)
    levels: dict[int, set[str]] = {}
    for node in artifact.model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                levels.setdefault(attribute.i, set()).add(node.output[0].removesuffix(".weight.product"))
    assert {name.rpartition(".")[2] for name in levels[0]} == {"qkv_proj", "o_proj"}
    assert len(levels[4]) == 3  # two layers' experts, and the logits
    assert "logits" in levels[4]


QUANTS = [
    GROUPS_OF_32,
    portable(group_size=64, symmetric=False),
    portable(group_size=32, symmetric=False, head_bits=8),
]


@pytest.mark.parametrize("quant", QUANTS, ids=str)
def test_every_kind_of_groups(tiny: Path, tmp_path: Path, quant: Quant) -> None:
    artifact = export(tiny, tmp_path / "model", quant=quant, context=64)
    check(artifact, some_ids(40), piece=40)
    check_reads_as_the_onnx_library(artifact)


def test_experts_of_8_bits(tiny: Path, tmp_path: Path) -> None:
    """Their products have activations of 8 bits at every accuracy."""
    quant = portable(bits=8, group_size=32, embedding_bits=8, head_bits=8)
    artifact = export(tiny, tmp_path / "model", quant=quant, context=64)
    check_reads_as_the_onnx_library(artifact)
    ids = some_ids(40)
    assert np.median(divergences(artifact.expected(ids), artifact.in_pieces(ids, 40))) <= 1e-3


class TestFiles:
    def test_every_expert_is_in_its_place(self, exact: Artifact) -> None:
        found = tensors_of(exact.folder)
        original = transformers_model(exact.checkpoint.folder)
        experts = dict(original.named_parameters())["model.layers.1.mlp.experts.gate_up_proj"]
        for expert, weights in enumerate(experts.detach().numpy()):
            own = found["model.layers.1.block_sparse_moe.experts.gate_up_proj.weight"][expert]
            assert ((own - weights) ** 2).sum() < 0.02 * (weights**2).sum()

    def test_the_graph_is_sound(self, exact: Artifact) -> None:
        check_opens(exact)

    def test_the_router_is_exact(self, exact: Artifact) -> None:
        found = tensors_of(exact.folder)["model.layers.0.block_sparse_moe.gate.weight"]
        original = dict(transformers_model(exact.checkpoint.folder).named_parameters())
        np.testing.assert_array_equal(found, original["model.layers.0.mlp.router.weight"].detach().numpy())

    @pytest.mark.parametrize(("context", "kind"), [(SWITCH, "llama"), (SWITCH + 1, "phimoe")])
    def test_the_type_is_the_one_that_prefills_again(
        self, tiny: Path, tmp_path: Path, context: int, kind: str
    ) -> None:
        artifact = export(tiny, tmp_path / "model", context=context)
        config = json.loads((artifact.folder / "genai_config.json").read_text())
        assert config["model"]["type"] == kind
        assert ("chunk_size" in config["search"]) == (kind == "llama")


class TestForCuda:
    """Its graph, on the CPU: there is no GPU where these tests run."""

    @pytest.fixture(scope="class")
    @classmethod
    def cuda(cls, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
        folder = tmp_path_factory.mktemp("cuda") / "model"
        return export(tiny, folder, kernels=FLOAT16, context=512, target="cuda")

    def test_the_graph_is_sound(self, cuda: Artifact) -> None:
        check_opens(cuda)

    def test_experts_are_stored_raw_and_routed_in_float32(self, cuda: Artifact) -> None:
        graph = cuda.model.graph
        nodes = [node for node in graph.node if node.op_type == "QMoE"]
        assert len(nodes) == cuda.checkpoint.architecture.layers
        for node in nodes:
            attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            assert attributes["weights_prepacked"] == 0
            assert attributes["swiglu_fusion"] == 1
        kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
        assert kinds[tensor_name(ModelTensor(Role.ROUTER, 0))] == TensorProto.FLOAT
        assert kinds[tensor_name(ModelTensor(Role.FEED_FORWARD_NORM, 0))] == TensorProto.FLOAT16

    def test_its_weights_are_the_cpus(self, cuda: Artifact, exact: Artifact) -> None:
        expected, found = tensors_of(exact.folder), tensors_of(cuda.folder)
        assert expected.keys() == found.keys()
        for name, weights in expected.items():
            exactly = weights.ndim > 1
            np.testing.assert_allclose(found[name], weights, rtol=0 if exactly else 1e-3, atol=0)

    def test_widths_that_its_kernels_do_not_take_are_refused(self, tmp_path: Path) -> None:
        tiny = write_tiny_phimoe(tmp_path / "tiny", ffn=160)
        with pytest.raises(NotSupportedError, match=r"cuda: expected experts .* multiples of 64.* 160"):
            export(tiny, tmp_path / "model", context=64, kernels=FLOAT16, target="cuda")


def test_experts_of_two_schemes_are_refused(exact: Artifact) -> None:
    quant = portable(group_size=32, keep=Keep(tensors=("*.experts.down_proj",)))
    plans = plan_tensors(exact.checkpoint.architecture, quant)
    with pytest.raises(NotSupportedError, match=r"same bits and groups, found 4 and 8 bits"):
        exporter.check_schemes(plans, read_target("cpu"))


def test_the_same_bytes_again(tiny: Path, exact: Artifact, tmp_path: Path) -> None:
    again = export(tiny, tmp_path / "model", kernels=FLOAT32, context=CONTEXT)
    for file in exact.folder.iterdir():
        assert file.read_bytes() == (again.folder / file.name).read_bytes()
