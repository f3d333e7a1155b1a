"""The OpenVINO artifact: what transformers computes with its weights, OpenVINO does; its files."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from edgephi.build.tensor_plans import plan_tensors
from edgephi.checkpoint.checkpoint import Checkpoint, open_checkpoint
from edgephi.checkpoint.locate import locate
from edgephi.declared.recipe import Quant
from edgephi.declared.target import Kernels, Target, read_target
from edgephi.engines.openvino_genai import DATA_FILE
from edgephi.export.onnx import exporter as onnx_exporter
from edgephi.export.openvino import exporter
from edgephi.export.stream.packed_tensor import ALIGNMENT
from edgephi.export.tensor_names import tensor_name
from tests.export import oracle as onnx_oracle
from tests.export.openvino.oracle import MODEL, Engine, openvino, openvino_genai, pipeline_answer, tensors_of
from tests.export.oracle import Floats, expected_logits, mean_kl, transformers_model
from tests.export.prefixes import prefix_groups
from tests.portable import portable
from tests.tiny_checkpoint import CHANGED_BY_LENGTH, SHAPES, write_tiny_checkpoint

# Weights so large that attention prefers some tokens; nothing but rounding may be left of a float32 cache.
STD = 0.1
EXACT = {"KV_CACHE_PRECISION": "f32"}
EXACT_LIMIT = 1e-9
LIMIT = 1e-5
ORIGINAL_CONTEXT = 4096
KINDS = list(SHAPES)
DEFAULT = portable()
LONGROPE = [name for name in KINDS if SHAPES[name].longrope]
DEFAULT_TARGET = read_target("openvino")
# A CPU with VNNI rounds activations to int8 unless the artifact says otherwise.
TARGET = dataclasses.replace(DEFAULT_TARGET, kernels=Kernels(accuracy_level=0))


def opened(tiny: Path) -> Checkpoint:
    return open_checkpoint(tiny, id="tiny", revision="local")


def model_with(checkpoint: Path, tensors: dict[str, Floats]) -> Any:
    """The checkpoint in transformers with these weights."""
    model = transformers_model(checkpoint)
    parameters = dict(model.named_parameters())
    if model.config.tie_word_embeddings:
        head = tensors.pop("lm_head.weight")
        np.testing.assert_array_equal(head, tensors["model.embed_tokens.weight"], strict=True)
    assert parameters.keys() == tensors.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            assert parameter.shape == tensors[name].shape, name
            parameter.copy_(torch.from_numpy(tensors[name].copy()))
    return model


@dataclass(frozen=True)
class Exported:
    """A tiny checkpoint and its artifact."""

    checkpoint: Checkpoint
    folder: Path
    quant: Quant
    context: int

    @cached_property
    def exact(self) -> Engine:
        return Engine(self.folder, **EXACT)

    @cached_property
    def unchanged(self) -> Engine:
        return Engine(self.folder)

    @cached_property
    def oracle(self) -> Any:
        return model_with(self.checkpoint.folder, tensors_of(self.folder))

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())


def export(
    folder: Path,
    shape: str,
    *,
    context: int = 8192,
    quant: Quant = DEFAULT,
    target: Target = TARGET,
    **options: Any,
) -> Exported:
    options.setdefault("std", STD)
    checkpoint = opened(write_tiny_checkpoint(folder / "checkpoint", shape, **options))
    context = min(context, checkpoint.architecture.context)
    artifact = folder / "artifact"
    artifact.mkdir()
    plans = plan_tensors(checkpoint.architecture, quant)
    exporter.write_artifact(artifact, checkpoint, plans, target, context)
    return Exported(checkpoint, artifact, quant, context)


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


def some_ids(count: int, *, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, 512, count)]


def check_prefixes(exported: Exported, lengths: list[int], *, last: int = 0) -> None:
    """OpenVINO's prefill of the first tokens of a text, for each length, against transformers'.

    One pass of the oracle serves all lengths that use the same RoPE factors, because attention is causal.
    Only the last tokens are compared when `last` is given: enough to see a wrong angle or a wrong mask.
    """
    for group in prefix_groups(exported.checkpoint, exported.context, lengths):
        ids = some_ids(max(group))
        expected = expected_logits(exported.oracle, ids)
        # The test would see nothing if every token were equally likely.
        assert expected.std(axis=1).min() > 0.05
        for length in group:
            start = max(0, length - last) if last else 0
            found = exported.exact.prefill(ids[:length])
            kl = mean_kl(expected[start:length], found[start:])
            # A long sum of small numbers has more rounding in it.
            limit = EXACT_LIMIT if length < 1000 else 1e-6
            assert kl <= limit, f"{length} tokens: KL {kl:.2e}"


@pytest.mark.parametrize("shape", KINDS)
class TestAgainstTransformers:
    def test_short_prompts(self, exports: Exports, shape: str) -> None:
        check_prefixes(exports(shape), [1, 2, 17, 33, 64, 65, 200])

    @pytest.mark.parametrize("step", [1, 7])
    def test_in_steps(self, exports: Exports, shape: str, step: int) -> None:
        exported = exports(shape)
        ids = some_ids(40, seed=1)
        expected = expected_logits(exported.oracle, ids)
        assert mean_kl(expected, exported.exact.prefill(ids, step=step)) <= EXACT_LIMIT

    def test_with_the_artifacts_own_options(self, exports: Exports, shape: str) -> None:
        exported = exports(shape)
        ids = some_ids(100, seed=2)
        expected = expected_logits(exported.oracle, ids)
        for step in (100, 32, 1):
            assert mean_kl(expected, exported.unchanged.prefill(ids, step=step)) <= LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("shape", CHANGED_BY_LENGTH)
def test_every_length_around_the_original_context(exports: Exports, shape: str) -> None:
    check_prefixes(exports(shape), [2100, 4096, 4097], last=64)


class TestActivations:
    """`accuracy_level`: 4, the default, leaves activations to OpenVINO, 0 keeps them in float32."""

    @pytest.mark.parametrize("shape", KINDS)
    @pytest.mark.parametrize(("std", "limit"), [(0.02, 2e-5), (STD, 3e-3)])
    def test_int8_where_the_processor_has_it_costs_little(
        self, shape: str, std: float, limit: float, tmp_path: Path
    ) -> None:
        rounded = export(tmp_path, shape, target=DEFAULT_TARGET, std=std)
        ids = some_ids(100, seed=2)
        kl = mean_kl(expected_logits(rounded.oracle, ids), rounded.unchanged.prefill(ids))
        assert kl <= limit

    def test_only_the_graphs_option_differs(self, exports: Exports, tmp_path: Path) -> None:
        rounded = export(tmp_path, "mini-4k", target=DEFAULT_TARGET)
        exact = exports("mini-4k")
        name = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
        assert exact.unchanged.compiled.get_property(name) == 0
        assert name not in (rounded.folder / MODEL).read_text()
        without = [line for line in (exact.folder / MODEL).read_text().splitlines() if name not in line]
        assert without == (rounded.folder / MODEL).read_text().splitlines()
        assert (rounded.folder / DATA_FILE).read_bytes() == (exact.folder / DATA_FILE).read_bytes()


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(tmp_path_factory.mktemp("windowed"), "mini-4k", sliding_window=33, context=128)


class TestAttentionWindow:
    def test_prompts_around_the_window(self, windowed: Exported) -> None:
        check_prefixes(windowed, [1, 32, 33, 34, 35, 65, 100])

    def test_token_by_token_across_the_window(self, windowed: Exported) -> None:
        ids = some_ids(70, seed=2)
        expected = expected_logits(windowed.oracle, ids)
        assert mean_kl(expected, windowed.exact.prefill(ids, step=1)) <= EXACT_LIMIT

    def test_the_window_matters(self, windowed: Exported, exports: Exports) -> None:
        # The same weights: only what lies outside of the window can tell the two apart.
        ids = some_ids(65)
        narrow, whole = windowed.exact.prefill(ids), exports("mini-4k").exact.prefill(ids)
        np.testing.assert_allclose(narrow[:33], whole[:33], atol=1e-3)
        assert mean_kl(whole[40:], narrow[40:]) > 1e-4


class TestLlmPipeline:
    """`openvino_genai.LLMPipeline` on the artifact as it is, with each of its attention back ends."""

    BACK_ENDS: tuple[dict[str, str], ...] = ({}, {"ATTENTION_BACKEND": "SDPA"})

    @pytest.mark.parametrize("options", BACK_ENDS, ids=["default", "sdpa"])
    @pytest.mark.parametrize("length", [20, 60])
    def test_a_window(self, windowed: Exported, length: int, options: dict[str, str]) -> None:
        ids = some_ids(length, seed=length)
        answer = pipeline_answer(windowed.folder, ids, 40, **options)
        check_answer(windowed, ids, answer)

    @pytest.mark.parametrize("options", BACK_ENDS, ids=["default", "sdpa"])
    @pytest.mark.parametrize("shape", ["medium", "phi-4-mini"])  # grouped heads; partial rotation, tied head
    def test_shapes(self, exports: Exports, shape: str, options: dict[str, str]) -> None:
        ids = some_ids(30, seed=4)
        answer = pipeline_answer(exports(shape).folder, ids, 24, **options)
        check_answer(exports(shape), ids, answer)

    @pytest.mark.parametrize("options", BACK_ENDS, ids=["default", "sdpa"])
    @pytest.mark.parametrize("length", [31, 32, 33, 48])
    def test_longrope_chooses_by_the_prompts_length(
        self, longrope: Exported, length: int, options: dict[str, str]
    ) -> None:
        ids = some_ids(length, seed=5)
        check_answer(longrope, ids, pipeline_answer(longrope.folder, ids, 1, **options))

    def test_paged_attention_sees_the_window(self, windowed: Exported) -> None:
        from openvino._offline_transformations import paged_attention_transformation

        core = openvino.Core()
        model = core.read_model(windowed.folder / MODEL)
        paged_attention_transformation(model)
        assert "attention_mask" not in {each.get_any_name() for each in model.inputs}
        attentions = [node for node in model.get_ops() if node.get_type_name() == "PagedAttentionExtension"]
        assert len(attentions) == windowed.checkpoint.architecture.layers
        for node in attentions:
            window = openvino.Model([node.input_value(10)], [])  # constants only
            (value,) = core.compile_model(window, "CPU")().values()
            assert int(value) == 33


def check_answer(exported: Exported, prompt: list[int], answer: list[int]) -> None:
    """Every token is the most likely one, or as good as: random weights leave many close to each other."""
    logits = expected_logits(exported.oracle, [*prompt, *answer[:-1]])[len(prompt) - 1 :]
    for row, token in zip(logits, answer, strict=True):
        assert row.max() - row[token] < 0.02


@pytest.fixture(scope="module")
def longrope(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """LongRoPE whose factors change at 32 tokens."""
    options: dict[str, Any] = {"original_context": 32, "context": 1024}
    return export(tmp_path_factory.mktemp("longrope"), "mini-128k", **options)


class TestLongRope:
    def test_prompts_around_the_original_context(self, longrope: Exported) -> None:
        check_prefixes(longrope, [31, 32, 33, 48, 200])

    def test_the_factors_matter(self, longrope: Exported) -> None:
        ids = some_ids(33)
        short, long = longrope.exact.prefill(ids[:32]), longrope.exact.prefill(ids)[:32]
        assert mean_kl(short[1:], long[1:]) > 1e-3

    def test_a_context_below_the_switch_has_one_set_of_factors(self, tmp_path: Path) -> None:
        below = export(tmp_path, "mini-128k", original_context=32, context=32)
        assert "total_length" not in (below.folder / MODEL).read_text()
        check_prefixes(below, [1, 31, 32])


QUANTS = [
    portable(group_size=32),
    portable(group_size=128, method="rtn"),
    portable(group_size=32, symmetric=False),
    portable(group_size=64, symmetric=False, embedding_bits=8),
    portable(group_size=128, symmetric=False, head_bits=8),
    portable(bits=8, group_size=32, embedding_bits=8, head_bits=8),
    portable(bits=8, group_size=128, embedding_bits=8, head_bits=8, symmetric=False),
]


def quant_name(quant: Quant) -> str:
    kind = "" if quant.symmetric else "-asym"
    return f"{quant.bits}{quant.embedding_bits}{quant.head_bits}-g{quant.group_size}{kind}-{quant.method}"


@pytest.mark.parametrize(
    ("shape", "quant"),
    [
        *(("mini-4k", quant) for quant in QUANTS),
        *(("phi-4-mini", quant) for quant in QUANTS[3:5]),  # its head is tied to its embedding
    ],
    ids=lambda value: quant_name(value) if isinstance(value, Quant) else value,
)
def test_every_kind_of_quantisation(tmp_path: Path, shape: str, quant: Quant) -> None:
    exported = export(tmp_path, shape, quant=quant, context=64)
    check_prefixes(exported, [1, 40])
    check_reads_as_openvino(exported)
    check_kernels(exported)
    check_size(exported)


@pytest.mark.parametrize("symmetric", [True, False])
def test_an_odd_number_of_groups(tmp_path: Path, symmetric: bool) -> None:
    # 96 feed-forward columns are three groups of 32: 4-bit zero points of a row would end inside a byte
    quant = portable(group_size=32, symmetric=symmetric)
    exported = export(tmp_path, "mini-4k", quant=quant, context=64, ffn=96)
    check_prefixes(exported, [1, 40])
    check_reads_as_openvino(exported)
    check_kernels(exported)


@pytest.mark.parametrize(("dtype", "shards"), [("F16", 1), ("F32", 3)])
def test_every_kind_of_checkpoint(tmp_path: Path, dtype: Literal["BF16", "F16", "F32"], shards: int) -> None:
    exported = export(tmp_path, "medium", dtype=dtype, shards=shards, context=64)
    check_prefixes(exported, [1, 40])
    check_reads_as_openvino(exported)


def check_size(exported: Exported) -> None:
    """The plan knew the size of the data file to the byte."""
    architecture = exported.checkpoint.architecture
    plans = plan_tensors(architecture, exported.quant)
    planned = exporter.artifact_bytes(architecture, plans, TARGET, exported.context)
    assert planned == (exported.folder / "openvino_model.bin").stat().st_size


def check_reads_as_openvino(exported: Exported) -> None:
    """Our reader of the artifact against OpenVINO's own, bit for bit."""
    architecture = exported.checkpoint.architecture
    ours = exporter.artifact_weights(exported.folder, architecture)
    theirs = tensors_of(exported.folder)
    for tensor, shape in architecture.tensor_shapes().items():
        expected = theirs[tensor_name(tensor)]
        np.testing.assert_array_equal(ours.rows(tensor, 0, shape[0]), expected, strict=True)
        start, stop = shape[0] // 3, shape[0] // 2
        np.testing.assert_array_equal(ours.rows(tensor, start, stop), expected[start:stop], strict=True)


def check_kernels(exported: Exported) -> None:
    """The CPU plugin took every subgraph for what it is: no weight is unpacked before it is needed."""
    layers = exported.checkpoint.architecture.layers
    found = exported.exact.layers()
    kinds = [kind for kind, _, _ in found]
    matrices = [types[1] for kind, _, types in found if kind == "FullyConnected"]
    assert len(matrices) == 4 * layers + 1
    assert set(matrices) <= {"u4", "u8"}
    (embedding,) = [types[0] for kind, _, types in found if kind == "Gather" and types[0] in ("u4", "u8")]
    quant = exported.quant
    tied = exported.checkpoint.architecture.tied_embeddings
    bits = max(quant.embedding_bits, quant.head_bits) if tied else quant.embedding_bits
    assert embedding == f"u{bits}"
    assert kinds.count("ScaledDotProductAttention") == layers
    assert kinds.count("RoPE") == 2 * layers
    assert kinds.count("RMS") == 2 * layers + 1


@pytest.mark.parametrize("shape", KINDS)
class TestWeights:
    def test_our_reader_is_openvinos(self, exports: Exports, shape: str) -> None:
        check_reads_as_openvino(exports(shape))

    def test_every_tensor_is_in_its_place(self, exports: Exports, shape: str) -> None:
        exported = exports(shape)
        found = tensors_of(exported.folder)
        original = transformers_model(exported.checkpoint.folder)
        for name, parameter in original.named_parameters():
            expected = parameter.detach().numpy()
            error = float(((found[name] - expected) ** 2).sum() / (expected**2).sum())
            assert error < (0.02 if expected.ndim == 2 else 1e-12), name

    def test_the_plugin_uses_its_kernels(self, exports: Exports, shape: str) -> None:
        check_kernels(exports(shape))

    def test_the_same_weights_as_in_onnx(self, exports: Exports, shape: str, tmp_path: Path) -> None:
        checkpoint = exports(shape).checkpoint
        plans = plan_tensors(checkpoint.architecture, portable(group_size=32))
        for name, writer, target in (
            ("onnx", onnx_exporter.write_artifact, "cpu"),
            ("openvino", exporter.write_artifact, "openvino"),
        ):
            (tmp_path / name).mkdir()
            writer(tmp_path / name, checkpoint, plans, read_target(target), 64)
        theirs, ours = onnx_oracle.tensors_of(tmp_path / "onnx"), tensors_of(tmp_path / "openvino")
        assert theirs.keys() == ours.keys()
        for name, tensor in ours.items():
            np.testing.assert_array_equal(tensor, theirs[name], strict=True)


@pytest.mark.parametrize("shape", KINDS)
class TestFiles:
    def test_the_size_is_known_beforehand(self, exports: Exports, shape: str) -> None:
        check_size(exports(shape))

    def test_constants_are_aligned_apart_and_inside_the_file(self, exports: Exports, shape: str) -> None:
        exported = exports(shape)
        size = (exported.folder / "openvino_model.bin").stat().st_size
        regions = set()
        for layer in ElementTree.parse(exported.folder / MODEL).getroot().iterfind("layers/layer"):
            data = layer.find("data")
            if layer.get("type") == "Const" and data is not None:
                regions.add((int(data.attrib["offset"]), int(data.attrib["size"])))
        end = 0
        for offset, length in sorted(regions):  # a tied head names the embedding's regions again
            assert end <= offset
            assert offset % (ALIGNMENT if length > 4096 else 8) == 0
            end = offset + length
        assert end == size

    def test_the_graph_declares_what_openvino_infers(self, exports: Exports, shape: str) -> None:
        folder = exports(shape).folder
        model = openvino.Core().read_model(folder / MODEL)
        inferred = {node.get_friendly_name(): node for node in model.get_ops()}
        layers = list(ElementTree.parse(folder / MODEL).getroot().iterfind("layers/layer"))
        assert {layer.attrib["name"] for layer in layers} == inferred.keys()
        for layer in layers:
            node = inferred[layer.attrib["name"]]
            assert node.get_type_name() in (layer.attrib["type"], "Constant")
            for place, port in enumerate(layer.iterfind("output/port")):
                declared = [int(dimension.text or "") for dimension in port.iterfind("dim")]
                shape_found = node.get_output_partial_shape(place)
                assert declared == [side.get_length() if side.is_static else -1 for side in shape_found], node

    def test_inputs_and_outputs(self, exports: Exports, shape: str) -> None:
        model = openvino.Core().read_model(exports(shape).folder / MODEL)
        inputs = {each.get_any_name(): each.get_element_type().get_type_name() for each in model.inputs}
        assert inputs == {
            "input_ids": "i64",
            "attention_mask": "i64",
            "position_ids": "i64",
            "beam_idx": "i32",
        }
        assert [each.get_any_name() for each in model.outputs] == ["logits"]
        assert len(model.get_sinks()) == 2 * exports(shape).checkpoint.architecture.layers

    def test_the_same_bytes_again(self, exports: Exports, shape: str, tmp_path: Path) -> None:
        first, second = exports(shape), export(tmp_path, shape)
        files = {file.name for file in first.folder.iterdir()}
        stems = ("openvino_model", "openvino_tokenizer", "openvino_detokenizer")
        assert files == {f"{stem}.{suffix}" for stem in stems for suffix in ("xml", "bin")} | {
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        }
        for file in files:
            assert (first.folder / file).read_bytes() == (second.folder / file).read_bytes(), file
            assert str(first.checkpoint.folder).encode() not in (first.folder / file).read_bytes()

    def test_all_stop_tokens_are_declared(self, exports: Exports, shape: str) -> None:
        exported = exports(shape)
        tokens = json.loads((exported.checkpoint.folder / "tokenizer.json").read_text())["added_tokens"]
        ids = {token["content"]: token["id"] for token in tokens}
        phi_4 = SHAPES[shape].chat == "phi-4"
        stops = {"<|endoftext|>", "<|im_end|>"} if phi_4 else {"<|endoftext|>", "<|assistant|>", "<|end|>"}
        config = openvino_genai.GenerationConfig(str(exported.folder / "generation_config.json"))
        assert config.stop_token_ids == {ids[token] for token in stops}
        assert config.max_length == exported.context
        assert not config.do_sample


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    checkpoint = open_checkpoint(locate("demo").folder, id="demo", revision="local")
    folder = tmp_path_factory.mktemp("demo")
    quant = portable(group_size=32)
    plans = plan_tensors(checkpoint.architecture, quant)
    exporter.write_artifact(folder, checkpoint, plans, TARGET, 4096)
    return Exported(checkpoint, folder, quant, 4096)


class TestDemo:
    """The demo checkpoint: a model that has something to say."""

    @pytest.mark.parametrize("options", TestLlmPipeline.BACK_ENDS, ids=["default", "sdpa"])
    def test_96_tokens_as_transformers_chooses_them(self, demo: Exported, options: dict[str, str]) -> None:
        tokenizer = openvino_genai.Tokenizer(str(demo.folder))
        for question in ("turn on the kitchen light", "who are you?"):
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True
            )
            prompt = [int(id_) for id_ in tokenizer.encode(text, add_special_tokens=False).input_ids.data[0]]
            answer = pipeline_answer(demo.folder, prompt, 96, **options)
            assert len(answer) == 96
            # Each is the most likely one after all before it: transformers would have written the same.
            logits = expected_logits(demo.oracle, prompt + answer)[len(prompt) - 1 : -1]
            assert answer == [int(token) for token in logits.argmax(axis=1)]

    def test_a_conversation_stops_where_it_should(self, demo: Exported) -> None:
        pipeline = openvino_genai.LLMPipeline(str(demo.folder), "CPU")
        answer = pipeline.generate("turn on the kitchen light")
        assert json.loads(answer) == {"action": "turn_on", "room": "kitchen", "device": "light"}


def test_building_needs_nothing_of_openvino(tmp_path: Path) -> None:
    code = """
import sys
for name in ("openvino", "openvino_genai", "openvino_tokenizers", "transformers", "torch", "onnx"):
    sys.modules[name] = None
from pathlib import Path
from edgephi.checkpoint.checkpoint import open_checkpoint
from edgephi.checkpoint.locate import locate
from edgephi.export.openvino.exporter import write_artifact
from edgephi.build.tensor_plans import plan_tensors
from edgephi.declared.recipe import Quant
from edgephi.declared.target import read_target
checkpoint = open_checkpoint(locate("demo").folder, id="demo", revision="local")
plans = plan_tensors(checkpoint.architecture, Quant())
write_artifact(Path(sys.argv[1]), checkpoint, plans, read_target("openvino"), 64)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert Engine(tmp_path).prefill([1, 2, 3]).shape == (3, 768)
