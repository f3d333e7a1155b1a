"""The ONNX artifact: what transformers computes with its weights, the engine computes too; and its files."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from edgephi.build.tensor_plans import plan_tensors
from edgephi.checkpoint.checkpoint import Checkpoint, open_checkpoint
from edgephi.declared.recipe import Quant
from edgephi.declared.target import Kernels, Target, read_target
from edgephi.export.onnx import exporter
from edgephi.export.onnx.layout import lay_out
from edgephi.export.stream.packed_tensor import ALIGNMENT
from edgephi.export.tensor_names import tensor_name
from tests.export.oracle import Engine, expected_logits, mean_kl, tensors_of, transformers_model
from tests.export.prefixes import prefix_groups
from tests.portable import portable
from tests.tiny_checkpoint import CHANGED_BY_LENGTH, SHAPES, write_tiny_checkpoint

Floats = NDArray[np.float32]

# float32 activations leave rounding noise only, even where weights are so large that attention prefers some
# tokens; int8 ones are judged on weights as large as published models have.
LIMITS = {0: 1e-8, 4: 1e-3}
STDS = {0: 0.1, 4: 0.02}
ORIGINAL_CONTEXT = 4096
KINDS = list(SHAPES)
DEFAULT = portable()
LONGROPE = [name for name in KINDS if SHAPES[name].longrope]


@dataclass(frozen=True)
class Exported:
    """A tiny checkpoint and its artifact."""

    checkpoint: Checkpoint
    folder: Path
    target: Target
    quant: Quant
    context: int

    @cached_property
    def engine(self) -> Engine:
        return Engine(self.folder)

    @cached_property
    def oracle(self) -> Any:
        return transformers_model(self.checkpoint.folder, self.folder)

    @property
    def graph(self) -> onnx.GraphProto:
        return onnx.load(self.folder / "model.onnx", load_external_data=False).graph

    @property
    def config(self) -> Any:
        return json.loads((self.folder / "genai_config.json").read_text())


def export(
    folder: Path, shape: str, *, level: int = 0, context: int = 8192, quant: Quant = DEFAULT, **options: Any
) -> Exported:
    options.setdefault("std", STDS[level])
    tiny = write_tiny_checkpoint(folder / "checkpoint", shape, **options)
    checkpoint = open_checkpoint(tiny, id="tiny", revision="local")
    architecture = checkpoint.architecture
    target = dataclasses.replace(read_target("cpu"), kernels=Kernels(level))
    context = min(context, architecture.context)
    artifact = folder / "artifact"
    artifact.mkdir()
    exporter.write_artifact(artifact, checkpoint, plan_tensors(architecture, quant), target, context)
    return Exported(checkpoint, artifact, target, quant, context)


Exports = Callable[[str, int], Exported]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Each shape at each accuracy level, exported once."""
    made: dict[tuple[str, int], Exported] = {}

    def get(shape: str, level: int) -> Exported:
        if (shape, level) not in made:
            made[shape, level] = export(tmp_path_factory.mktemp(shape), shape, level=level)
        return made[shape, level]

    return get


def some_ids(count: int, *, seed: int = 0, vocabulary: int = 512) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, vocabulary, count)]


def check_prefixes(exported: Exported, lengths: list[int], *, limit: float) -> None:
    """The engine's prefill of the first tokens of a text, for each length, against transformers'.

    One pass of the oracle serves all lengths that use the same RoPE factors, because attention is causal.
    """
    for group in prefix_groups(exported.checkpoint, exported.context, lengths):
        ids = some_ids(max(group))
        expected = expected_logits(exported.oracle, ids)
        # The test would see nothing if every token were equally likely.
        assert expected.std(axis=1).min() > 0.05
        for length in group:
            found = exported.engine.prefill(ids[:length])
            kl = mean_kl(expected[length - len(found) : length], found)
            assert kl <= limit, f"{length} tokens: KL {kl:.2e}"


# Long prompts show angles and masks, of which int8 activations know nothing: one shape has them there.
LONG = [*((shape, 0) for shape in CHANGED_BY_LENGTH), ("mini-128k", 4)]


@pytest.mark.parametrize("level", [0, 4])
@pytest.mark.parametrize("shape", KINDS)
class TestAgainstTransformers:
    def test_short_prompts(self, exports: Exports, shape: str, level: int) -> None:
        check_prefixes(exports(shape, level), [1, 2, 17, 33, 64, 65, 200], limit=LIMITS[level])

    def test_token_by_token(self, exports: Exports, shape: str, level: int) -> None:
        exported = exports(shape, level)
        ids = some_ids(17, seed=1)
        expected = expected_logits(exported.oracle, ids)
        assert mean_kl(expected, exported.engine.stepped(ids)) <= LIMITS[level]


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "level"), LONG)
def test_every_length_around_the_original_context(exports: Exports, shape: str, level: int) -> None:
    check_prefixes(exports(shape, level), [512, 4096, 4097], limit=LIMITS[level])


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(tmp_path_factory.mktemp("windowed"), "mini-4k", sliding_window=33, context=128)


class TestAttentionWindow:
    def test_prompts_around_the_window(self, windowed: Exported) -> None:
        check_prefixes(windowed, [1, 32, 33, 34, 35, 65, 100], limit=LIMITS[0])

    def test_token_by_token_across_the_window(self, windowed: Exported) -> None:
        ids = some_ids(70, seed=2)
        expected = expected_logits(windowed.oracle, ids)
        assert mean_kl(expected, windowed.engine.stepped(ids)) <= LIMITS[0]

    def test_the_window_matters(self, windowed: Exported, exports: Exports) -> None:
        ids = some_ids(65)
        wide = exports("mini-4k", 0)
        # The same weights: only what lies outside of the window can tell the two apart.
        narrow, whole = windowed.engine.prefill(ids), wide.engine.prefill(ids)
        np.testing.assert_allclose(narrow[:33], whole[:33], atol=1e-3)
        assert mean_kl(whole[40:], narrow[40:]) > 1e-4


class TestGeneration:
    """Answers that pass 4,096 tokens: LongRoPE's factors change for all positions, and the engine's cache."""

    @staticmethod
    def generate(exported: Exported, prompt: list[int], steps: int) -> tuple[list[int], list[Floats]]:
        """The tokens after generating, and the logits that each step computed, all positions of them."""
        generator = exported.engine.generator(exported.context)
        generator.append_tokens(prompt)
        computed = []
        for _ in range(steps):
            if generator.is_done():
                break
            # Logits are those that chose the token: the first are the prompt's.
            generator.generate_next_token()
            computed.append(generator.get_output("logits")[0])
        return [int(token) for token in generator.get_sequence(0)], computed

    @pytest.mark.slow
    @pytest.mark.parametrize(("shape", "level"), LONG)
    def test_each_step_is_a_fresh_prefill(self, exports: Exports, shape: str, level: int) -> None:
        exported = exports(shape, level)
        prompt = some_ids(4090, seed=4)
        sequence, computed = self.generate(exported, prompt, 12)
        # No step but the first sees this text's stop tokens or the context's end before its work is done.
        assert len(computed) == (12 if exported.context > ORIGINAL_CONTEXT else 6)
        seen = [len(prompt) + step for step in range(len(computed))]  # tokens behind each step's logits
        switch = exported.checkpoint.architecture.attention.rotary.uses_long_factors
        for group in ([n for n in seen if not switch(n)], [n for n in seen if switch(n)]):
            if group:
                count = group[-1] - group[0] + 1
                expected = expected_logits(exported.oracle, sequence[: group[-1]], last=count)
                found = np.stack([computed[n - len(prompt)][-1] for n in group])
                assert mean_kl(expected, found) <= max(LIMITS[level], 3e-8)

    @pytest.mark.parametrize("shape", ["phi-4", "mini-4k"])
    def test_without_longrope_no_step_prefills_again(self, exports: Exports, shape: str) -> None:
        exported = exports(shape, 4)
        _, computed = self.generate(exported, some_ids(4090, seed=3), 12)
        assert {len(logits) for logits in computed[1:]} == {1}

    def test_with_longrope_one_step_does(self, exports: Exports) -> None:
        # This holds the test above: a second prefill does show in the number of logits.
        _, computed = self.generate(exports("mini-128k", 4), some_ids(4090, seed=3), 12)
        assert sorted(len(logits) for logits in computed[1:])[-2:] == [1, ORIGINAL_CONTEXT + 1]

    def test_a_context_below_the_switch_never_prefills_again(self, tmp_path: Path) -> None:
        short = export(tmp_path, "mini-128k", context=64)
        assert short.config["model"]["type"] == "llama"
        check_prefixes(short, [1, 33, 64], limit=LIMITS[0])


QUANTS = [
    portable(group_size=32),
    portable(group_size=64),
    portable(group_size=128, method="rtn"),
    portable(group_size=32, symmetric=False),
    portable(group_size=64, symmetric=False, embedding_bits=8),
    portable(group_size=128, symmetric=False, head_bits=8),
    portable(group_size=128, embedding_bits=8, head_bits=8),
    portable(bits=8, group_size=32, embedding_bits=8, head_bits=8),
    portable(bits=8, group_size=128, embedding_bits=8, head_bits=8, symmetric=False),
]


def quant_name(quant: Quant) -> str:
    kind = "" if quant.symmetric else "-asym"
    return f"{quant.bits}{quant.embedding_bits}{quant.head_bits}-g{quant.group_size}{kind}-{quant.method}"


@pytest.mark.parametrize("shape", ["mini-4k", "phi-4-mini"])  # the latter's head is tied to its embedding
@pytest.mark.parametrize("quant", QUANTS, ids=quant_name)
def test_every_kind_of_quantisation(tmp_path: Path, shape: str, quant: Quant) -> None:
    exported = export(tmp_path, shape, quant=quant, context=64)
    check_prefixes(exported, [1, 40], limit=LIMITS[0])
    check_reads_as_the_onnx_library(exported)


@pytest.mark.parametrize("symmetric", [True, False])
def test_an_odd_number_of_groups(tmp_path: Path, symmetric: bool) -> None:
    # 96 feed-forward columns are three groups of 32: the last zero point has a byte of its own
    quant = portable(group_size=32, symmetric=symmetric)
    exported = export(tmp_path, "mini-4k", quant=quant, context=64, ffn=96)
    check_prefixes(exported, [1, 40], limit=LIMITS[0])
    check_reads_as_the_onnx_library(exported)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_every_kind_of_checkpoint(tmp_path: Path, dtype: Literal["BF16", "F16", "F32"], shards: int) -> None:
    exported = export(tmp_path, "medium", dtype=dtype, shards=shards, context=64)
    check_prefixes(exported, [1, 40], limit=LIMITS[0])
    check_reads_as_the_onnx_library(exported)


def check_reads_as_the_onnx_library(exported: Exported) -> None:
    """Our reader of the artifact against the onnx library's and a decoder of the tests' own, bit for bit."""
    architecture = exported.checkpoint.architecture
    ours = exporter.artifact_weights(exported.folder, architecture)
    theirs = tensors_of(exported.folder)
    for tensor, shape in architecture.tensor_shapes().items():
        expected = theirs[tensor_name(tensor)]
        np.testing.assert_array_equal(ours.rows(tensor, 0, shape[0]), expected, strict=True)
        start, stop = shape[0] // 3, shape[0] // 2
        np.testing.assert_array_equal(ours.rows(tensor, start, stop), expected[start:stop], strict=True)


@pytest.mark.parametrize("shape", KINDS)
class TestWeights:
    def test_our_reader_is_the_onnx_librarys(self, exports: Exports, shape: str) -> None:
        check_reads_as_the_onnx_library(exports(shape, 0))

    def test_every_tensor_is_in_its_place(self, exports: Exports, shape: str) -> None:
        exported = exports(shape, 0)
        found = tensors_of(exported.folder)
        original = transformers_model(exported.checkpoint.folder)
        for name, parameter in original.named_parameters():
            expected = parameter.detach().numpy()
            error = float(((found[name] - expected) ** 2).sum() / (expected**2).sum())
            assert error < (0.02 if expected.ndim == 2 else 1e-12), name


@pytest.mark.parametrize("shape", KINDS)
class TestFiles:
    def test_the_size_is_known_beforehand(self, exports: Exports, shape: str) -> None:
        exported = exports(shape, 0)
        architecture = exported.checkpoint.architecture
        for quant in QUANTS:
            plans = plan_tensors(architecture, quant)
            nothing = dict.fromkeys(architecture.tensor_shapes(), ())
            kernels = exported.target.kernels
            layout = lay_out(nothing, architecture, plans, kernels, exported.context)
            planned = exporter.artifact_bytes(architecture, plans, exported.target, exported.context)
            assert 0 <= planned - layout.size < ALIGNMENT
        plans = plan_tensors(architecture, exported.quant)
        planned = exporter.artifact_bytes(architecture, plans, exported.target, exported.context)
        real = (exported.folder / "model.onnx.data").stat().st_size
        assert 0 <= planned - real < ALIGNMENT

    def test_external_data_is_aligned_apart_and_inside_the_file(self, exports: Exports, shape: str) -> None:
        exported = exports(shape, 0)
        size = (exported.folder / "model.onnx.data").stat().st_size
        regions = set()
        for tensor in exported.graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                assert len(tensor.raw_data) <= 8  # the graph's own numbers
                continue
            where = {entry.key: entry.value for entry in tensor.external_data}
            assert where["location"] == "model.onnx.data"
            item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            assert int(where["length"]) == np.prod(tensor.dims) * item
            regions.add((int(where["offset"]), int(where["length"])))
        end = 0
        for offset, length in sorted(regions):  # a tied head names the embedding's regions again
            assert offset % ALIGNMENT == 0
            assert end <= offset < end + ALIGNMENT
            end = offset + length
        assert end == size

    def test_the_graph_is_sound(self, exports: Exports, shape: str) -> None:
        model = onnx.load(exports(shape, 0).folder / "model.onnx", load_external_data=False)
        names = [tensor.name for tensor in model.graph.initializer]
        used = {name for node in model.graph.node for name in node.input}
        assert len(names) == len(set(names))
        assert set(names) <= used
        for node in model.graph.node:
            # onnxruntime has this operator in ONNX's own domain, where the onnx library does not know it.
            if node.op_type == "SimplifiedLayerNormalization":
                node.domain = "com.microsoft"
        checked = exports(shape, 0).folder / "checked.onnx"  # beside the data, which is checked too
        checked.write_bytes(model.SerializeToString())
        try:
            onnx.checker.check_model(checked)
        finally:
            checked.unlink()

    def test_onnxruntime_opens_the_graph_and_finds_the_declared_values(
        self, exports: Exports, shape: str
    ) -> None:
        exported = exports(shape, 0)
        session = onnxruntime.InferenceSession(exported.folder / "model.onnx")
        config = exported.config["model"]["decoder"]
        layers = range(config["num_hidden_layers"])
        names = config["inputs"]
        expected = {names["input_ids"], names["attention_mask"]}
        expected |= {names[key] % layer for key in ("past_key_names", "past_value_names") for layer in layers}
        assert {value.name for value in session.get_inputs()} == expected
        names = config["outputs"]
        expected = {names["logits"]}
        expected |= {
            names[key] % layer for key in ("present_key_names", "present_value_names") for layer in layers
        }
        assert {value.name for value in session.get_outputs()} == expected

    def test_the_same_bytes_again(self, exports: Exports, shape: str, tmp_path: Path) -> None:
        first, second = exports(shape, 0), export(tmp_path, shape)
        files = {file.name for file in first.folder.iterdir()}
        artifact = {"model.onnx", "model.onnx.data", "genai_config.json"}
        assert files == {*artifact, "tokenizer.json", "tokenizer_config.json"}
        for file in files:
            assert (first.folder / file).read_bytes() == (second.folder / file).read_bytes(), file

    def test_all_stop_tokens_are_declared(self, exports: Exports, shape: str) -> None:
        exported = exports(shape, 0)
        tokens = json.loads((exported.checkpoint.folder / "tokenizer.json").read_text())["added_tokens"]
        ids = {token["content"]: token["id"] for token in tokens}
        phi_4 = SHAPES[shape].chat == "phi-4"
        stops = {"<|endoftext|>", "<|im_end|>"} if phi_4 else {"<|endoftext|>", "<|assistant|>", "<|end|>"}
        assert set(exported.config["model"]["eos_token_id"]) == {ids[token] for token in stops}

    def test_the_cache_is_for_the_context_that_was_asked_for(
        self, exports: Exports, shape: str, tmp_path: Path
    ) -> None:
        for exported in (exports(shape, 0), export(tmp_path, shape, context=100)):
            assert exported.config["search"]["max_length"] == exported.context
            assert exported.config["model"]["context_length"] == exported.context
            assert exported.context in (100, 4096, 8192)

    def test_accuracy_level_is_the_targets(self, exports: Exports, shape: str) -> None:
        for level in (0, 4):
            levels = {
                attribute.i
                for node in exports(shape, level).graph.node
                if node.op_type == "MatMulNBits"
                for attribute in node.attribute
                if attribute.name == "accuracy_level"
            }
            assert levels == {level}


def test_a_tied_head_is_stored_once(tmp_path: Path) -> None:
    quant = portable(embedding_bits=4, head_bits=8)
    tied = export(tmp_path, "phi-4-mini", quant=quant, context=64)
    where = {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in tied.graph.initializer
        if tensor.name.startswith(("lm_head.", "model.embed_tokens."))
    }
    for part in ("codes", "scales"):
        assert where[f"lm_head.weight.{part}"] == where[f"model.embed_tokens.weight.{part}"]
    bits = {
        node.op_type: next(a.i for a in node.attribute if a.name == "bits")
        for node in tied.graph.node
        if node.op_type == "GatherBlockQuantized" or node.output[0] == "logits"
    }
    assert bits == {"GatherBlockQuantized": 8, "MatMulNBits": 8}


class TestAgainstTheGenaiBuilder:
    """Loss of quantisation against onnxruntime-genai's own int4 export of the same checkpoint."""

    SEEDS = (0, 1, 2)
    # No other size of this shape: the builder takes every matrix with as many rows as tokens for the head.
    VOCABULARY = 704
    # With "Gather" the builder quantises the embedding too, as we do.
    WITH_EMBEDDING = "op_types_to_quantize=MatMul/Gather"
    OPTIONS: ClassVar = {
        "32": ("block_size=32", WITH_EMBEDDING),
        "128": ("block_size=128", WITH_EMBEDDING),
        "32-float-embedding": ("block_size=32",),
    }

    @pytest.fixture(scope="class")
    @classmethod
    def theirs(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """What the builder makes of a checkpoint of each seed, `NAME-SEED` for each of the options."""
        folder = tmp_path_factory.mktemp("builder")
        calls = []
        for seed in cls.SEEDS:
            checkpoint = write_tiny_checkpoint(
                folder / f"{seed}", "mini-4k", seed=seed, std=0.06, vocab=cls.VOCABULARY
            )
            for name, options in cls.OPTIONS.items():
                call = [
                    "-i",
                    str(checkpoint),
                    "-o",
                    str(folder / f"{name}-{seed}"),
                    "-c",
                    str(folder / "cache"),
                ]
                calls.append(
                    [*call, "-p", "int4", "-e", "cpu", "--extra_options", "accuracy_level=1", *options]
                )
        # One process for all: what it imports takes longer than what it does.
        each = (
            "import json, runpy, sys\n"
            "for call in json.load(sys.stdin):\n"
            "    sys.argv = ['builder', *call]\n"
            "    runpy.run_module('onnxruntime_genai.models.builder', run_name='__main__', alter_sys=True)\n"
        )
        command = [sys.executable, "-c", each]
        subprocess.run(command, input=json.dumps(calls), text=True, check=True, capture_output=True)
        return folder

    def losses(self, folder: Path, theirs: Path, name: str, quant: Quant) -> tuple[list[float], list[float]]:
        """KL(original ‖ engine) of our export and of the builder's, by seed; our file is never larger."""
        ours, peers = [], []
        for seed in self.SEEDS:
            peer = theirs / f"{name}-{seed}"
            exported = export(
                folder / f"{seed}",
                "mini-4k",
                context=512,
                quant=quant,
                seed=seed,
                std=0.06,
                vocab=self.VOCABULARY,
            )
            ids = some_ids(400, seed=seed, vocabulary=self.VOCABULARY)
            expected = expected_logits(transformers_model(exported.checkpoint.folder), ids)
            ours.append(mean_kl(expected, exported.engine.prefill(ids)))
            peers.append(mean_kl(expected, Engine(peer).prefill(ids, length=512)))
            sizes = [(place / "model.onnx.data").stat().st_size for place in (exported.folder, peer)]
            tables = 2 * 512 * 32 * 4  # RoPE's: ours for this context, theirs for the model's
            assert sizes[0] - tables <= sizes[1]
        return ours, peers

    @pytest.mark.slow
    @pytest.mark.parametrize("size", [32, 128])
    def test_less_is_lost_at_the_same_bits(
        self, tmp_path: Path, theirs: Path, size: Literal[32, 128]
    ) -> None:
        ours, peers = self.losses(tmp_path, theirs, f"{size}", portable(group_size=size))
        assert np.mean(ours) < 0.95 * np.mean(peers), (ours, peers)

    @pytest.mark.slow
    def test_less_is_lost_than_with_its_float_embedding(self, tmp_path: Path, theirs: Path) -> None:
        quant = portable(group_size=32, embedding_bits=8)
        ours, peers = self.losses(tmp_path, theirs, "32-float-embedding", quant)
        assert np.mean(ours) < np.mean(peers), (ours, peers)
