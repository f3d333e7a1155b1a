"""The float16 graph for CUDA, run on the CPU: what can be known about it where there is no GPU.

The CPU has float16 kernels for all of the graph's operators but SiLU's Sigmoid and Mul, around which
onnxruntime puts casts; the rounding of everything else is that of float16.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import onnxruntime_genai
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edgephi.build.build import find_checkpoint
from edgephi.build.gate import check_gate
from edgephi.build.plan import make_plan
from edgephi.build.tensor_plans import plan_tensors
from edgephi.bundle.manifest import Manifest
from edgephi.checkpoint.checkpoint import Checkpoint, open_checkpoint
from edgephi.declared.recipe import Quant, read_recipe
from edgephi.declared.target import read_target
from edgephi.errors import NotSupportedError
from edgephi.export.onnx import exporter
from edgephi.export.tensor_names import tensor_name
from tests.build.demo import build_demo
from tests.export.oracle import expected_logits, mean_kl, tensors_of, transformers_model
from tests.export.prefixes import prefix_groups
from tests.portable import portable
from tests.tiny_checkpoint import CHANGED_BY_LENGTH, SHAPES, write_tiny_checkpoint

Floats = NDArray[np.float32]

# With weights of this size attention prefers some tokens and logits spread, so float16's rounding shows:
# 1.7e-5 at most was measured. With weights as large as published models have, 3e-8.
STD = 0.1
LIMIT = 5e-5
KINDS = list(SHAPES)
CONTEXT = 8192
CUDA = read_target("cuda")


@dataclass(frozen=True)
class Exported:
    """A tiny checkpoint and its artifact for CUDA."""

    checkpoint: Checkpoint
    folder: Path
    context: int

    @cached_property
    def oracle(self) -> Any:
        return transformers_model(self.checkpoint.folder, self.folder)

    @cached_property
    def engine(self) -> Any:
        """The artifact on the CPU: its own configuration asks for CUDA."""
        config = onnxruntime_genai.Config(str(self.folder))
        config.clear_providers()
        return onnxruntime_genai.Model(config)

    @property
    def graph(self) -> onnx.GraphProto:
        return onnx.load(self.folder / "model.onnx").graph

    @property
    def config(self) -> Any:
        return json.loads((self.folder / "genai_config.json").read_text())

    def generator(self, length: int) -> Any:
        parameters = onnxruntime_genai.GeneratorParams(self.engine)
        parameters.set_search_options(max_length=length, do_sample=False)
        return onnxruntime_genai.Generator(self.engine, parameters)

    def prefill(self, ids: list[int]) -> Floats:
        """Logits of one prefill, or of its last chunk where the engine cuts the prompt."""
        generator = self.generator(len(ids))
        generator.append_tokens(ids)
        logits = generator.get_output("logits")[0]
        assert logits.dtype == np.float16
        return np.asarray(logits, np.float32)

    def stepped(self, ids: list[int]) -> Floats:
        """Logits of every token, each appended alone."""
        generator = self.generator(len(ids))
        rows = []
        for token in ids:
            generator.append_tokens([token])
            rows.append(generator.get_output("logits")[0][-1].astype(np.float32))
        return np.stack(rows)


def export(folder: Path, shape: str, *, quant: Quant | None = None, **options: Any) -> Exported:
    tiny = write_tiny_checkpoint(folder / "checkpoint", shape, **{"std": STD, **options})
    checkpoint = open_checkpoint(tiny, id="tiny", revision="local")
    architecture = checkpoint.architecture
    context = min(CONTEXT, architecture.context)
    plans = plan_tensors(architecture, quant or portable(group_size=32))
    artifact = folder / "artifact"
    artifact.mkdir()
    report = exporter.write_artifact(artifact, checkpoint, plans, CUDA, context)
    planned = exporter.artifact_bytes(architecture, plans, CUDA, context)
    assert 0 <= planned - report.data_size < 64
    return Exported(checkpoint, artifact, context)


Exports = Callable[[str], Exported]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Each shape, exported once."""
    made: dict[str, Exported] = {}

    def get(shape: str) -> Exported:
        if shape not in made:
            made[shape] = export(tmp_path_factory.mktemp(shape), shape)
        return made[shape]

    return get


def some_ids(count: int, *, seed: int = 0, vocabulary: int = 512) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, vocabulary, count)]


@pytest.mark.parametrize("shape", KINDS)
class TestAgainstTransformers:
    def test_prompts(self, exports: Exports, shape: str) -> None:
        ids = some_ids(200)
        expected = expected_logits(exports(shape).oracle, ids)
        # The test would see nothing if every token were equally likely.
        assert expected.std(axis=1).min() > 0.05
        for length in (1, 2, 33, 200):
            assert mean_kl(expected[:length], exports(shape).prefill(ids[:length])) <= LIMIT

    def test_token_by_token(self, exports: Exports, shape: str) -> None:
        ids = some_ids(17, seed=1)
        expected = expected_logits(exports(shape).oracle, ids)
        assert mean_kl(expected, exports(shape).stepped(ids)) <= LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("shape", CHANGED_BY_LENGTH)
def test_around_the_window_and_the_original_context(tmp_path: Path, shape: str) -> None:
    exported = export(tmp_path, shape, layers=1)
    for group in prefix_groups(exported.checkpoint, exported.context, (2100, 4096, 4097)):
        ids = some_ids(max(group))
        expected = expected_logits(exported.oracle, ids)
        for length in group:
            found = exported.prefill(ids[:length])
            assert mean_kl(expected[length - len(found) : length], found) <= LIMIT, length


QUANTS = [
    portable(group_size=128),
    portable(group_size=32, embedding_bits=8),
    portable(bits=8, group_size=64, embedding_bits=8, head_bits=8),
    portable(group_size=32, symmetric=False),
    portable(bits=8, group_size=64, embedding_bits=8, head_bits=8, symmetric=False),
]


@pytest.mark.parametrize("shape", ["mini-4k", "phi-4-mini"])  # the latter's head is tied to its embedding
@pytest.mark.parametrize("quant", QUANTS, ids=str)
def test_every_kind_of_quantisation(tmp_path: Path, shape: str, quant: Quant) -> None:
    exported = export(tmp_path, shape, quant=quant)
    ids = some_ids(40)
    assert mean_kl(expected_logits(exported.oracle, ids), exported.prefill(ids)) <= LIMIT


@pytest.mark.parametrize("shape", KINDS)
class TestGraph:
    def test_everything_that_is_no_code_is_float16(self, exports: Exports, shape: str) -> None:
        graph = exports(shape).graph
        kinds = Counter(value.type.tensor_type.elem_type for value in (*graph.input, *graph.output))
        layers = exports(shape).checkpoint.architecture.layers
        assert kinds == {TensorProto.INT64: 2, TensorProto.FLOAT16: 1 + 4 * layers}
        assert {tensor.data_type for tensor in graph.initializer} == {
            TensorProto.FLOAT16,
            TensorProto.UINT8,
            TensorProto.INT64,
        }

    def test_the_weights_are_those_of_the_cpus_artifact(
        self, exports: Exports, shape: str, tmp_path: Path
    ) -> None:
        checkpoint = exports(shape).checkpoint
        plans = plan_tensors(checkpoint.architecture, portable(group_size=32))
        exporter.write_artifact(tmp_path, checkpoint, plans, read_target("cpu"), 64)
        expected, found = tensors_of(tmp_path), tensors_of(exports(shape).folder)
        ours = exporter.artifact_weights(exports(shape).folder, checkpoint.architecture)
        for name, weights in expected.items():
            exact = weights.ndim == 2
            np.testing.assert_allclose(found[name], weights, rtol=0 if exact else 1e-3, atol=0)
        for tensor, size in checkpoint.architecture.tensor_shapes().items():
            np.testing.assert_array_equal(ours.rows(tensor, 0, size[0]), found[tensor_name(tensor)])

    def test_the_embedding_names_its_zero_points(self, exports: Exports, shape: str) -> None:
        """CUDA's kernel takes 0 for them where they are left out, the CPU's the middle code."""
        graph = exports(shape).graph
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        (lookup,) = (node for node in graph.node if node.op_type == "GatherBlockQuantized")
        zero_points = stored[lookup.input[3]]
        assert zero_points.shape == (512, 256 // 32 // 2)
        assert (zero_points == 0x88).all()

    def test_the_configuration_asks_for_cuda(self, exports: Exports, shape: str) -> None:
        options = exports(shape).config["model"]["decoder"]["session_options"]["provider_options"]
        assert options == [{"cuda": {"enable_cuda_graph": "0"}}]
        assert exports(shape).config["search"]["past_present_share_buffer"]


def test_what_the_cpu_cannot_do_in_float16(exports: Exports, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(exports("mini-4k").folder / "model.onnx", options)
    graph = onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph
    to_float32 = {
        node.output[0]
        for node in graph.node
        if node.op_type == "Cast" and {a.name: a.i for a in node.attribute}["to"] == TensorProto.FLOAT
    }
    assert {node.op_type for node in graph.node if to_float32.intersection(node.input)} == {"Sigmoid", "Mul"}


def test_zero_points_that_cuda_misreads_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path, "mini-4k", hidden=96 * 4, ffn=128)
    architecture = open_checkpoint(folder, id="tiny", revision="local").architecture
    recipe = read_recipe("default")
    odd = dataclasses.replace(recipe, quant=portable(group_size=128, symmetric=False))
    with pytest.raises(NotSupportedError, match=r"expected an even number of groups .* found 3"):
        make_plan("tiny", architecture, odd, CUDA)
    for quant in (
        portable(group_size=32, symmetric=False),
        portable(group_size=128, symmetric=False, embedding_bits=8),
        portable(group_size=128),
    ):
        make_plan("tiny", architecture, dataclasses.replace(recipe, quant=quant), CUDA)
    make_plan("tiny", architecture, odd, read_target("cpu"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """That of the demo, built for CUDA and verified."""
    return build_demo(CUDA, tmp_path_factory.mktemp("cuda") / "bundle").manifest


class TestDemo:
    def test_its_certificate_is_within_the_recipes_gates(self, manifest: Manifest) -> None:
        check_gate(manifest.certificate, read_recipe("demo").gate)
        assert manifest.certificate.export_error is not None
        # Some rounding of float16, and no more than that.
        assert 1e-9 < manifest.certificate.export_error.kl_mean < 1e-5

    def test_its_certificate_says_what_was_run(self, manifest: Manifest) -> None:
        assert manifest.target.provider == "cuda"
        if not onnxruntime_genai.is_cuda_available():
            assert manifest.certificate.provider == "cpu"
            assert manifest.certificate.note.startswith("not run on its provider; ")

    def test_its_cache_takes_half_of_the_cpus(self, manifest: Manifest) -> None:
        architecture = open_checkpoint(
            find_checkpoint("demo", read_recipe("demo"), None, progress=False).folder,
            id="demo",
            revision="local",
        ).architecture
        plans = [
            make_plan("demo", architecture, read_recipe("demo"), read_target(name), context=4096)
            for name in ("cpu", "cuda")
        ]
        assert plans[0].memory.kv_cache == 2 * plans[1].memory.kv_cache
        assert manifest.requires.memory_bytes == plans[1].memory.total
