"""The QNN artifact: what transformers computes with its weights, Qualcomm's emulator does; its files."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgephi.build.plan import make_plan
from edgephi.build.tensor_plans import plan_tensors
from edgephi.bundle.artifact.qnn_artifact import GraphFiles
from edgephi.checkpoint.checkpoint import Checkpoint, CheckpointWeights, open_checkpoint
from edgephi.checkpoint.roles import EMBEDDING
from edgephi.declared.recipe import Quant, Recipe
from edgephi.declared.soc import read_soc, socs
from edgephi.declared.target import Target, read_target
from edgephi.errors import BadDeclarationError, NotSupportedError
from edgephi.export.qnn import exporter
from edgephi.export.qnn.compiler import compile_graphs
from edgephi.export.stream.one_pass import StreamReport
from edgephi.export.tensor_names import tensor_name
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan
from edgephi.reference.forward import final_hidden_states, logits
from tests.build.counted_steps import CountedSteps
from tests.export.oracle import Floats, expected_logits, mean_kl, transformers_model
from tests.export.qnn.emulator import Emulator, embedding, htp_session
from tests.export.qnn.operators import convolution_error, product_error, quantised_operator
from tests.installs import installs
from tests.portable import portable
from tests.tiny_checkpoint import SHAPES, write_tiny_checkpoint
from tests.tiny_phi3_v import write_tiny_phi3_v

MODERN, OLD = "snapdragon-8-gen-3", "qcs6490"
KINDS = list(SHAPES)
CONTEXT = 192  # three chunks
STD = 0.1  # weights so large that attention prefers some tokens
FOUR, EIGHT = portable(group_size=32), portable(bits=8, embedding_bits=8, head_bits=8)
# Rounding of activations: KL against transformers' floats with the same weights, and against the reference
# that rounds them as the graphs do.
FLOAT_LIMITS = {MODERN: 5e-5, OLD: 5e-3}
EXPORT_LIMITS = {MODERN: 5e-5, OLD: 2e-3}


@dataclass(frozen=True)
class Exported:
    """A tiny checkpoint and its artifact."""

    checkpoint: Checkpoint
    folder: Path
    soc: str
    report: StreamReport

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads((self.folder / "qnn.json").read_text())
        return config

    def emulator(self) -> Emulator:
        """A fresh one each time: those of one processor fail when one of another has been opened."""
        return Emulator(self.folder, self.checkpoint.architecture)

    @cached_property
    def oracle(self) -> Any:
        """transformers with the artifact's weights, as the onnx library reads them."""
        model = transformers_model(self.checkpoint.folder)
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())  # its codes are its own
        tensors = self.tensors()
        parameters = dict(model.named_parameters())
        assert parameters.keys() == tensors.keys()
        with torch.no_grad():
            for name, parameter in parameters.items():
                assert parameter.shape == tensors[name].shape, name
                parameter.copy_(torch.from_numpy(tensors[name].copy()))
        return model

    def graph(self, name: str) -> onnx.GraphProto:
        graph: onnx.GraphProto = onnx.load(self.folder / "graphs" / name).graph
        return graph

    def tensors(self) -> dict[str, Floats]:
        """All weights by the checkpoint's names: convolutions in the order of the decoder's operators."""
        layers = self.checkpoint.architecture.layers
        parts = ("q", "k", "v", "self_attn.o_proj", "gate", "up", "mlp.down_proj")
        matrices: list[Floats] = []
        norms: list[Floats] = []
        graphs = [
            self.graph(path.name) for path in sorted((self.folder / "graphs").glob("part_*_decode.onnx"))
        ]
        for graph in [*graphs, self.graph("head.onnx")]:
            stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
            made = {node.output[0]: node for node in graph.node}
            for node in graph.node:
                if node.op_type == "Conv":
                    matrices.append(dequantised(stored, made[node.input[1]]))
                elif node.op_type == "SimplifiedLayerNormalization":
                    scale = node.input[1]
                    norms.append(stored[scale] if scale in stored else dequantised(stored, made[scale]))
        assert len(matrices) == layers * len(parts) + 1
        assert len(norms) == layers * 2 + 1
        tensors = {
            "model.embed_tokens.weight": embedding(self.folder),
            "model.norm.weight": norms[-1],
            "lm_head.weight": matrices[-1],
        }
        for layer in range(layers):
            prefix = f"model.layers.{layer}."
            one = dict(zip(parts, matrices[layer * len(parts) :], strict=False))
            tensors[prefix + "self_attn.qkv_proj.weight"] = np.concatenate([one["q"], one["k"], one["v"]])
            tensors[prefix + "self_attn.o_proj.weight"] = one["self_attn.o_proj"]
            tensors[prefix + "mlp.gate_up_proj.weight"] = np.concatenate([one["gate"], one["up"]])
            tensors[prefix + "mlp.down_proj.weight"] = one["mlp.down_proj"]
            tensors[prefix + "input_layernorm.weight"] = norms[2 * layer]
            tensors[prefix + "post_attention_layernorm.weight"] = norms[2 * layer + 1]
        return tensors


def dequantised(stored: dict[str, Any], node: onnx.NodeProto) -> Floats:
    """What DequantizeLinear makes of an initializer, as onnx describes it; [rows, columns] of a kernel."""
    codes, scales, zero_points = (np.asarray(stored[name]).astype(np.float32) for name in node.input)
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if "block_size" in attributes:
        scales, zero_points = (
            np.repeat(each, attributes["block_size"], axis=1) for each in (scales, zero_points)
        )
    elif scales.ndim:
        scales, zero_points = (each[:, None, None, None] for each in (scales, zero_points))
    numbers: Floats = ((codes - zero_points) * scales).astype(np.float32)
    return numbers.reshape(numbers.shape[:2]) if numbers.ndim == 4 else numbers


def target(soc: str = MODERN) -> Target:
    return dataclasses.replace(read_target("qnn"), soc=soc)


def export(
    folder: Path, shape: str, soc: str, *, quant: Quant = FOUR, context: int = CONTEXT, **options: Any
) -> Exported:
    options.setdefault("std", STD)
    tiny = write_tiny_checkpoint(folder / "checkpoint", shape, **options)
    checkpoint = open_checkpoint(tiny, id="tiny", revision="local")
    artifact = folder / "artifact"
    artifact.mkdir()
    plans = plan_tensors(checkpoint.architecture, quant)
    report = exporter.write_artifact(artifact, checkpoint, plans, target(soc), context)
    return Exported(checkpoint, artifact, soc, report)


Exports = Callable[[str, str], Exported]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Each shape for each processor, exported once."""
    made: dict[tuple[str, str], Exported] = {}

    def get(shape: str, soc: str) -> Exported:
        if (shape, soc) not in made:
            made[shape, soc] = export(tmp_path_factory.mktemp(shape), shape, soc)
        return made[shape, soc]

    return get


class TestSteps:
    def test_each_of_them_is_counted_to_its_end(self, tmp_path: Path) -> None:
        tiny = write_tiny_checkpoint(tmp_path / "checkpoint", "medium", std=STD)
        checkpoint = open_checkpoint(tiny, id="tiny", revision="local")
        artifact = tmp_path / "artifact"
        artifact.mkdir()
        steps = CountedSteps()

        plans = plan_tensors(checkpoint.architecture, FOUR)
        exporter.write_artifact(artifact, checkpoint, plans, target(), CONTEXT, step=steps.step)
        assert list(steps.sizes) == ["quantise and export", "measure activations", "compile for the HTP"]
        assert steps.counted == steps.sizes


def some_ids(count: int, *, seed: int = 0, vocabulary: int = 512) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, vocabulary, count)]


@pytest.mark.parametrize(("shape", "soc"), [*((shape, MODERN) for shape in KINDS), ("medium", OLD)])
class TestAgainstTransformers:
    """Then against the reference, which rounds activations as the graphs do."""

    def test_a_prompt_and_tokens_after_it(self, exports: Exports, shape: str, soc: str) -> None:
        exported = exports(shape, soc)
        ids = some_ids(70)
        expected = expected_logits(exported.oracle, ids)
        assert expected.std(axis=1).min() > 0.05  # the test would see nothing if all were equally likely
        emulator = exported.emulator()
        prompt = emulator.prefill(ids[:66])
        found = np.concatenate([prompt, [emulator.step(token) for token in ids[66:]]])
        assert mean_kl(expected, found) <= FLOAT_LIMITS[soc]

        weights = exporter.artifact_weights(exported.folder, exported.checkpoint.architecture)
        (hidden,) = final_hidden_states([weights], [ids])
        assert mean_kl(logits(weights, hidden), found) <= EXPORT_LIMITS[soc]


class TestWeights:
    @pytest.mark.parametrize("quant", [FOUR, EIGHT], ids=["4 bits", "8 bits"])
    def test_are_read_as_the_onnx_library_reads_them(self, tmp_path: Path, quant: Quant) -> None:
        exported = export(tmp_path, "phi-4-mini", MODERN, quant=quant, layers=1)
        weights = exporter.artifact_weights(exported.folder, exported.checkpoint.architecture)
        architecture = weights.architecture  # with a head of its own
        tensors = exported.tensors()
        for tensor, shape in architecture.tensor_shapes().items():
            read = weights.rows(tensor, 0, shape[0])
            np.testing.assert_allclose(read, tensors[tensor_name(tensor)], rtol=1e-6)
            np.testing.assert_array_equal(weights.rows(tensor, 3, 9), read[3:9], err_msg=str(tensor))

    def test_eight_bits_are_closer_to_the_checkpoint(self, tmp_path: Path) -> None:
        errors = {}
        for bits, quant in ((4, FOUR), (8, EIGHT)):
            report = export(tmp_path / str(bits), "medium", MODERN, quant=quant, layers=1).report
            errors[bits] = max(error.relative_squared_error for error in report.errors)
        assert errors[8] < 1e-3 < errors[4]

    def test_eight_bits_run_too(self, tmp_path: Path) -> None:
        exported = export(tmp_path, "medium", MODERN, quant=EIGHT)
        ids = some_ids(20)
        found = exported.emulator().prefill(ids)
        assert mean_kl(expected_logits(exported.oracle, ids), found) <= FLOAT_LIMITS[MODERN]

    def test_every_matrix_has_explicit_zero_points_of_zero(self, exports: Exports) -> None:
        exported = exports("medium", MODERN)
        for path in (exported.folder / "graphs").glob("*.onnx"):
            graph = exported.graph(path.name)
            stored = {tensor.name: tensor for tensor in graph.initializer}
            kernels = {node.input[1] for node in graph.node if node.op_type == "Conv"}
            assert kernels
            for node in graph.node:
                if node.output[0] in kernels:
                    assert len(node.input) == 3, node.name
                    zero_points = stored[node.input[2]]
                    assert zero_points.data_type == stored[node.input[0]].data_type == TensorProto.INT4
                    assert not np.asarray(numpy_helper.to_array(zero_points)).any()


class TestActivations:
    def test_all_values_between_operators_are_integers(self, exports: Exports) -> None:
        """But for the residual stream, which only a new HTP has floats for."""
        graph = exports("medium", OLD).graph("part_0_decode.onnx")
        made = {node.output[0]: node.op_type for node in graph.node}
        for node in graph.node:
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                inputs = [name for name in node.input if name in made]
                assert {made[name] for name in inputs} <= {"DequantizeLinear"}, node.name

    def test_the_cache_has_16_bits_where_the_htp_can_multiply_them(self, exports: Exports) -> None:
        kinds = {soc: exports("medium", soc).config["cache_type"] for soc in (MODERN, OLD)}
        assert kinds == {MODERN: "int16", OLD: "uint8"}

    def test_a_token_past_the_attention_window_changes_nothing(self, tmp_path: Path) -> None:
        exported = export(tmp_path, "mini-4k", MODERN, sliding_window=5, layers=1)
        ids = some_ids(70, seed=2)
        found = exported.emulator().prefill(ids)
        assert mean_kl(expected_logits(exported.oracle, ids), found) <= FLOAT_LIMITS[MODERN]


class TestFiles:
    def test_parts_are_of_one_size_and_run_one_after_the_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = export(tmp_path / "whole", "medium", MODERN, layers=3)
        monkeypatch.setattr(exporter, "LARGEST_PART_BYTES", 1)
        parted = export(tmp_path / "parted", "medium", MODERN, layers=3)
        assert [part["layers"] for part in parted.config["parts"]] == [[0, 1], [1, 2], [2, 3]]
        ids = some_ids(9)
        assert mean_kl(whole.emulator().prefill(ids), parted.emulator().prefill(ids)) < 1e-5

    def test_a_part_s_two_graphs_share_their_weights(self, tmp_path: Path) -> None:
        exported = export(tmp_path, "medium", MODERN, hidden=512, ffn=2048)
        weights = (exported.folder / "graphs" / "weights.data").stat().st_size
        assert (exported.folder / "part_0.bin").stat().st_size < 1.6 * weights

    def test_wrappers_hold_one_context_each_and_name_its_file(self, exports: Exports) -> None:
        exported = exports("medium", MODERN)
        config = exported.config
        found = set()
        for part in [config["parts"][0]["prefill"], config["parts"][0]["decode"], config["head"]]:
            (node,) = onnx.load(exported.folder / part["wrapper"]).graph.node
            attributes = {
                attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute
            }
            assert node.op_type == "EPContext"
            assert attributes["ep_sdk_version"].decode().removeprefix("v") == config["qairt"]
            found.add(attributes["ep_cache_context"].decode())
        assert found == {"part_0.bin", "head.bin"}
        assert all((exported.folder / name).stat().st_size for name in found)
        assert config["onnxruntime_qnn"]

    def test_a_binary_of_one_graph_computes_what_the_graph_does(self, exports: Exports) -> None:
        exported = exports("medium", MODERN)
        config = exported.config
        hidden = np.random.default_rng(0).standard_normal((1, 1, 1, config["hidden"]), np.float32)
        graph = htp_session(exported.folder / config["head"]["graph"], config["provider_options"])
        binary = htp_session(exported.folder / config["head"]["wrapper"], {})
        found = [session.run(None, {"hidden": hidden})[0] for session in (graph, binary)]
        np.testing.assert_array_equal(*found)

    def test_the_same_build_gives_the_same_bytes(self, tmp_path: Path, exports: Exports) -> None:
        first, again = exports("medium", MODERN).folder, export(tmp_path, "medium", MODERN).folder
        names = sorted(str(path.relative_to(first)) for path in first.rglob("*") if path.is_file())
        assert names == sorted(str(path.relative_to(again)) for path in again.rglob("*") if path.is_file())
        differing = [name for name in names if (first / name).read_bytes() != (again / name).read_bytes()]
        assert differing == []

    def test_the_planned_size_is_that_of_weights_and_tables(self, exports: Exports) -> None:
        exported = exports("medium", MODERN)
        architecture = exported.checkpoint.architecture
        planned = exporter.artifact_bytes(architecture, plan_tensors(architecture, FOUR), target(), CONTEXT)
        names = ("graphs/weights.data", "embedding.bin", "rope.bin")
        assert planned == sum((exported.folder / name).stat().st_size for name in names)


class TestCompiler:
    """What Qualcomm's compiler does with graphs that are not ours."""

    def test_four_bits_without_zero_points_are_silently_wrong(self) -> None:
        """Why they are always written down. When this fails the compiler has been mended."""
        options = exporter.provider_options(read_soc(MODERN))
        assert convolution_error(options) < 1e-2
        assert convolution_error(options, zero_points=False) > 1

    def test_a_cache_of_int16_is_why_scores_are_exact(self) -> None:
        """With uint16 on both sides the compiler makes one of them 8 bits."""
        options = exporter.provider_options(read_soc(MODERN))
        assert 5 * product_error(options, "int16") < product_error(options, "uint16")

    def test_an_operator_that_the_htp_rejects_is_named(self, tmp_path: Path) -> None:
        """Determinants are for nobody's NPU; the graph is one that needs the CPU for them."""
        model = quantised_operator(
            [helper.make_node("Det", ["x_real"], ["y_real"], name="the_determinant")],
            {"x": (1, 4, 4)},
            (1,),
            [],
        )
        (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(NotSupportedError, match=r"rejects Det \(the_determinant\)"):
            compile_graphs(
                tmp_path,
                [GraphFiles(graph="bad.onnx", wrapper="wrapper.onnx")],
                "bad.bin",
                exporter.provider_options(read_soc(MODERN)),
                where=MODERN,
            )


class TestRefusals:
    def test_zero_points_in_a_recipe(self) -> None:
        plans = {EMBEDDING: TensorPlan(Scheme(4, 32, symmetric=False))}
        with pytest.raises(NotSupportedError, match="symmetric"):
            exporter.check_schemes(plans, target())

    def test_a_model_that_sees(self, tmp_path: Path) -> None:
        seeing = open_checkpoint(write_tiny_phi3_v(tmp_path), id="tiny", revision="local")
        with pytest.raises(
            NotSupportedError, match=r"Phi-3-vision on qnn: .*one that sees: .*on texts and not on images"
        ):
            exporter.check_architecture(seeing.architecture)

    def test_a_processor_that_is_unknown(self) -> None:
        with pytest.raises(BadDeclarationError, match=r"snapdragon-8-gen-9.*did you mean"):
            exporter.check_schemes({}, target("snapdragon-8-gen-9"))

    def test_contexts_past_longrope_s_short_factors(self, tmp_path: Path) -> None:
        tiny = write_tiny_checkpoint(tmp_path / "tiny", "mini-128k")
        architecture = open_checkpoint(tiny, id="tiny", revision="local").architecture
        recipe = Recipe(name="tiny", summary="", quant=FOUR)
        assert make_plan("tiny", architecture, recipe, target()).context == 4096
        with pytest.raises(NotSupportedError, match="4096"):
            make_plan("tiny", architecture, recipe, target(), context=8192)

    def test_a_missing_compiler(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import importlib.util

        real = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *rest: None if name == "onnxruntime_qnn" else real(name, *rest),
        )
        with pytest.raises(NotSupportedError, match="onnxruntime-qnn") as caught:
            export(tmp_path, "medium", MODERN, layers=1)
        assert installs(caught.value.hint, "build", "qnn")


class TestProcessors:
    def test_those_of_phones_laptops_and_boards_are_known(self) -> None:
        known = {soc.name: soc.htp_arch for soc in socs()}
        expected = {
            "snapdragon-8-gen-2": 73,
            "snapdragon-8-gen-3": 75,
            "snapdragon-8-elite": 79,
            "snapdragon-x-elite": 73,
            "qcs6490": 68,
        }
        assert known.items() >= expected.items()

    @pytest.mark.parametrize("soc", [soc.name for soc in socs()])
    def test_each_of_them_is_compiled_for(self, tmp_path: Path, soc: str) -> None:
        exported = export(tmp_path, "medium", soc, layers=1, context=64)
        assert exported.config["soc"]["name"] == soc
        assert (exported.folder / "part_0.bin").stat().st_size > 0


def test_ranges_hold_what_the_calibration_text_shows(exports: Exports) -> None:
    """The evaluation text was not seen by it: its activations may be cut off, but few of them are."""
    exported = exports("medium", MODERN)
    architecture = exported.checkpoint.architecture
    weights = exporter.artifact_weights(exported.folder, architecture)
    original = CheckpointWeights(exported.checkpoint)
    ids = some_ids(100, seed=5)
    hidden = [final_hidden_states([each], [ids])[0] for each in (weights, original)]
    assert mean_kl(logits(original, hidden[1]), logits(weights, hidden[0])) < 0.5
