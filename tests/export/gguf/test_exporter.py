"""The GGUF artifact: what transformers computes with its weights, llama.cpp computes too; and its files.

Weights and header are read back with the `gguf` library, which shares no code with our reader.
"""

import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from jinja2 import Environment
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from edgephi.build.build import build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.build.tensor_plans import plan_tensors
from edgephi.bundle.manifest import ChatFacts, Limits, Requires, TargetFacts, read_manifest
from edgephi.chat.formats import PHI_3_CHAT, PHI_4_CHAT, PHI_4_MINI_CHAT, ChatFormat
from edgephi.checkpoint.checkpoint import Checkpoint, open_checkpoint
from edgephi.declared.recipe import Quant, read_recipe
from edgephi.declared.target import read_target
from edgephi.errors import NotSupportedError
from edgephi.export.gguf import exporter
from edgephi.export.gguf.blocks import TYPES
from edgephi.export.gguf.layout import FILE_TYPES
from edgephi.export.gguf.modelfile import go_template
from edgephi.export.gguf.tokenizer import breaks_after, chat_template, read_gguf_tokenizer
from edgephi.export.gguf.weights import read_tensors
from edgephi.export.onnx import exporter as onnx_exporter
from edgephi.export.tensor_names import tensor_name
from edgephi.reference.evaluation_text import passages
from edgephi.runtime.engines.llama_cpp.adapter import LlamaEngine, open_engine
from edgephi.steps import silent
from tests.bundle.tiny import tiny_manifest
from tests.export.oracle import mean_kl, tensors_of
from tests.export.prefixes import prefix_groups
from tests.phi_3_chat import as_phi_3
from tests.portable import portable
from tests.runtime.engines.cache_behaviour import greedy
from tests.tiny_checkpoint import CHANGED_BY_LENGTH, SHAPES, write_tiny_checkpoint
from tests.tokenizer_texts import demo_tokenizer, with_flags

Floats = NDArray[np.float32]

# Weights so large that attention prefers some tokens: a wrong factor or window costs a KL of 0.1 and more.
# llama.cpp's kernels make activations int8, which costs 1e-4 with such weights and 1e-5 with published ones.
STD = 0.05
LIMIT = 1e-3
TARGET = read_target("gguf")
DEFAULT = portable(group_size=32)
KINDS = list(SHAPES)


@dataclass(frozen=True)
class Exported:
    """A tiny checkpoint and its artifact, in the folder `model` of a bundle."""

    checkpoint: Checkpoint
    bundle: Path
    context: int

    @property
    def folder(self) -> Path:
        return self.bundle / "model"

    @cached_property
    def engine(self) -> LlamaEngine:
        rotary, tokenizer = self.checkpoint.architecture.attention.rotary, self.checkpoint.tokenizer
        switches = rotary.uses_long_factors(self.context)
        manifest = tiny_manifest(
            {},
            target=TargetFacts("gguf", "llama.cpp", "cpu", ("x86_64",)),
            chat=ChatFacts(tokenizer.chat.template, ()),
            limits=Limits(self.context, rotary.original_context if switches else None),
            requires=Requires(1, 1, {}),
        )
        return open_engine(self.bundle, manifest, context=self.context, provider="cpu")

    @cached_property
    def oracle(self) -> Any:
        """The checkpoint in transformers, with the weights of the artifact."""
        model = AutoModelForCausalLM.from_pretrained(
            self.checkpoint.folder, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
        weights = stored_weights(self.folder)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.from_numpy(weights.pop(name)))
        assert not weights
        return model

    def expected(self, token_ids: list[int]) -> Floats:
        with torch.no_grad():
            logits: Floats = self.oracle(torch.tensor([token_ids]), use_cache=False).logits[0].numpy()
        return logits

    def found(self, token_ids: list[int], *, step: int = 32) -> Floats:
        return np.concatenate(list(self.engine.logits(token_ids, step=step)))


def stored_weights(folder: Path) -> dict[str, Floats]:
    """Every weight of the file under the checkpoint's name, read and dequantised by the gguf library."""
    parts = {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "output": "lm_head",
        "attn_norm": "input_layernorm",
        "attn_qkv": "self_attn.qkv_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.gate_up_proj",
        "ffn_down": "mlp.down_proj",
    }
    weights = {}
    for tensor in gguf.GGUFReader(folder / "model.gguf").tensors:
        if not tensor.name.startswith("rope_factors"):
            name = tensor.name.removesuffix(".weight")
            layer, _, part = name.rpartition(".")
            prefix = f"model.layers.{layer.removeprefix('blk.')}." if layer else ""
            weights[f"{prefix}{parts[part]}.weight"] = np.array(
                gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            )
    return weights


def header(folder: Path) -> dict[str, Any]:
    """The metadata of the file, as the gguf library reads it."""
    fields = gguf.GGUFReader(folder / "model.gguf").fields
    return {key: field.contents() for key, field in fields.items()}


def export(
    folder: Path, shape: str, *, context: int = 8192, quant: Quant = DEFAULT, **options: Any
) -> Exported:
    options.setdefault("std", STD)
    checkpoint = open_checkpoint(
        write_tiny_checkpoint(folder / "checkpoint", shape, **options), id="makers/tiny", revision="local"
    )
    context = min(context, checkpoint.architecture.context)
    (folder / "bundle/model").mkdir(parents=True)
    plans = plan_tensors(checkpoint.architecture, quant, "K-quants")
    exporter.check_schemes(plans, TARGET)
    exporter.write_artifact(folder / "bundle/model", checkpoint, plans, TARGET, context)
    return Exported(checkpoint, folder / "bundle", context)


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


def check(exported: Exported, length: int, *, seed: int = 0) -> None:
    """All logits of a text of that length, against one fresh prefill in transformers."""
    ids = some_ids(length, seed=seed)
    expected = exported.expected(ids)
    assert expected.std(axis=1).min() > 0.05  # it would see nothing if every token were equally likely
    kl = mean_kl(expected, exported.found(ids))
    assert kl <= LIMIT, f"{length} tokens: KL {kl:.2e}"


def check_ends(exported: Exported, lengths: list[int], *, last: int = 64) -> None:
    """The last logits of the beginning of a text, for each length: enough to see a wrong angle or mask.

    One pass of the oracle serves all lengths that use the same RoPE factors, because attention is causal.
    """
    for group in prefix_groups(exported.checkpoint, exported.context, lengths):
        ids = some_ids(max(group))
        expected = exported.expected(ids)
        for length in group:
            found = exported.found(ids[:length], step=512)
            kl = mean_kl(expected[length - last : length], found[-last:])
            assert kl <= LIMIT, f"{length} tokens: KL {kl:.2e}"


@pytest.mark.parametrize("shape", KINDS)
class TestAgainstTransformers:
    @pytest.mark.parametrize("length", [1, 33, 64, 65, 200])
    def test_short_texts(self, exports: Exports, shape: str, length: int) -> None:
        check(exports(shape), length)

    def test_token_by_token(self, exports: Exports, shape: str) -> None:
        ids = some_ids(17, seed=1)
        found = exports(shape).found(ids, step=1)
        assert mean_kl(exports(shape).expected(ids), found) <= LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("shape", CHANGED_BY_LENGTH)
def test_every_length_around_window_and_original_context(exports: Exports, shape: str) -> None:
    check_ends(exports(shape), [2048, 4096, 4097])


def check_answer(exported: Exported, prompt: list[int], steps: int) -> None:
    """Each token of a greedy answer is the best one by a fresh prefill of all before it.

    Or as good as the best: int8 activations move logits by some hundredths of their spread.
    """
    answer = greedy(exported.engine, prompt, steps)
    for step, token in enumerate(answer):
        logits = exported.expected(prompt + answer[:step])[-1]
        assert logits.max() - logits[token] <= 0.1 * logits.std(), f"step {step}"


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(tmp_path_factory.mktemp("windowed"), "mini-4k", sliding_window=33, context=300)


class TestSlidingWindow:
    """llama.cpp has none for Phi-3; our adapter forgets what a token may not see."""

    @pytest.mark.parametrize("length", [32, 33, 34, 35, 100])
    def test_texts_around_the_window(self, windowed: Exported, length: int) -> None:
        check(windowed, length)

    def test_an_answer_that_leaves_the_window(self, windowed: Exported) -> None:
        check_answer(windowed, some_ids(30, seed=2), 20)

    def test_the_window_matters(self, windowed: Exported, exports: Exports) -> None:
        ids = some_ids(100)
        # The same weights: only what lies outside of the window can tell the two apart.
        narrow, wide = windowed.found(ids), exports("mini-4k").found(ids)
        assert mean_kl(wide[:32], narrow[:32]) < 1e-8
        assert mean_kl(wide[40:], narrow[40:]) > 100 * LIMIT

    def test_other_tools_are_told_of_the_window_only(self, windowed: Exported) -> None:
        assert header(windowed.folder)["phi3.context_length"] == 33


@pytest.fixture(scope="module", params=[256, 300])  # llama.cpp allocates 512 tokens for 300
def longrope(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A model with LongRoPE that was made for so few tokens that a test can pass them."""
    original = request.param
    folder = tmp_path_factory.mktemp("longrope")
    return export(folder, "mini-128k", original_context=original, context=2 * original)


class TestLongRope:
    """A text within the original context has the short factors, a longer one the long ones throughout."""

    @pytest.mark.parametrize("past", [-1, 0, 1, 150])
    def test_texts_around_the_original_context(self, longrope: Exported, past: int) -> None:
        check(longrope, longrope.context // 2 + past)

    def test_a_short_text_after_a_long_one(self, longrope: Exported) -> None:
        for length in (longrope.context // 2 + 9, 40, longrope.context // 2 + 9):
            check(longrope, length, seed=length)

    def test_an_answer_that_crosses_it(self, longrope: Exported) -> None:
        check_answer(longrope, some_ids(longrope.context // 2 - 6, seed=3), 12)

    def test_the_factors_matter(self, longrope: Exported) -> None:
        ids = some_ids(longrope.context // 2 + 1)
        # Only the factors of the longer text can tell the two apart.
        assert mean_kl(longrope.expected(ids[:-1]), longrope.expected(ids)[:-1]) > 20 * LIMIT

    @pytest.mark.parametrize("original", [256, 300])
    def test_a_bundle_that_ends_before_it_has_the_short_factors(self, tmp_path: Path, original: int) -> None:
        check(export(tmp_path, "mini-128k", original_context=original, context=original - 20), original - 20)


QUANTS = [
    DEFAULT,
    portable(group_size=32, method="rtn"),
    portable(group_size=32, embedding_bits=8),
    portable(group_size=32, head_bits=8),
    portable(bits=8, group_size=32, embedding_bits=8, head_bits=8),
    portable(formats="native"),
    portable(formats="native", method="rtn", embedding_bits=8, head_bits=8),
    portable(formats="native", bits=8),
]


def quant_name(quant: Quant) -> str:
    return f"{quant.bits}{quant.embedding_bits}{quant.head_bits}-{quant.method}-{quant.formats}"


@pytest.mark.parametrize("shape", ["mini-4k", "phi-4-mini"])  # the latter's head is tied to its embedding
@pytest.mark.parametrize("quant", QUANTS, ids=quant_name)
def test_every_kind_of_quantisation(tmp_path: Path, shape: str, quant: Quant) -> None:
    exported = export(tmp_path, shape, quant=quant, context=64)
    check(exported, 40)
    check_reads_as_the_gguf_library(exported)


def check_reads_as_the_gguf_library(exported: Exported) -> None:
    architecture = exported.checkpoint.architecture
    ours, theirs = exporter.artifact_weights(exported.folder, architecture), stored_weights(exported.folder)
    for tensor, shape in architecture.tensor_shapes().items():
        expected = theirs[tensor_name(tensor)]
        np.testing.assert_array_equal(ours.rows(tensor, 0, shape[0]), expected, strict=True)
        start, stop = shape[0] // 3, shape[0] // 2
        np.testing.assert_array_equal(ours.rows(tensor, start, stop), expected[start:stop], strict=True)


@pytest.mark.parametrize("shape", KINDS)
class TestWeights:
    def test_our_reader_is_the_gguf_librarys(self, exports: Exports, shape: str) -> None:
        check_reads_as_the_gguf_library(exports(shape))

    def test_they_are_the_onnx_artifacts_bit_for_bit(
        self, exports: Exports, shape: str, tmp_path: Path
    ) -> None:
        exported = exports(shape)
        plans = plan_tensors(exported.checkpoint.architecture, DEFAULT, "K-quants")
        onnx_exporter.write_artifact(tmp_path, exported.checkpoint, plans, read_target("cpu"), 64)
        expected = tensors_of(tmp_path)
        found = stored_weights(exported.folder)
        if exported.checkpoint.architecture.tied_embeddings:
            expected.pop("lm_head.weight")
        assert found.keys() == expected.keys()
        for name, weight in found.items():
            assert weight.tobytes() == np.ascontiguousarray(expected[name]).tobytes(), name


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_every_kind_of_checkpoint(tmp_path: Path, dtype: str, shards: int) -> None:
    exported = export(tmp_path, "medium", dtype=dtype, shards=shards, context=64)
    check(exported, 40)
    check_reads_as_the_gguf_library(exported)


@pytest.mark.parametrize("shape", KINDS)
class TestFiles:
    def test_the_size_is_known_beforehand(self, exports: Exports, shape: str) -> None:
        exported = exports(shape)
        architecture = exported.checkpoint.architecture
        plans = plan_tensors(architecture, DEFAULT, "K-quants")
        planned = exporter.artifact_bytes(architecture, plans, TARGET, exported.context)
        reader = gguf.GGUFReader(exported.folder / "model.gguf")
        real = (exported.folder / "model.gguf").stat().st_size
        assert planned == real - reader.data_offset

    def test_tensors_lie_aligned_apart_and_inside_the_file(self, exports: Exports, shape: str) -> None:
        file = exports(shape).folder / "model.gguf"
        reader = gguf.GGUFReader(file)
        end = reader.data_offset
        for tensor in sorted(reader.tensors, key=lambda tensor: tensor.data_offset):
            assert tensor.data_offset == end
            end = -(-(end + tensor.n_bytes) // 32) * 32
        assert end == file.stat().st_size

    def test_our_table_of_tensors_is_the_gguf_librarys(self, exports: Exports, shape: str) -> None:
        file = exports(shape).folder / "model.gguf"
        theirs = {
            tensor.name: (tensor.tensor_type, tuple(reversed(tensor.shape.tolist())), tensor.data_offset)
            for tensor in gguf.GGUFReader(file).tensors
        }
        assert {name: dataclasses.astuple(tensor) for name, tensor in read_tensors(file).items()} == theirs

    def test_the_header_says_what_the_loader_asks(self, exports: Exports, shape: str) -> None:
        exported, tiny = exports(shape), SHAPES[shape]
        found = header(exported.folder)
        rotary = exported.checkpoint.architecture.attention.rotary
        expected = {
            "general.architecture": "phi3",
            "general.file_type": gguf.LlamaFileType.MOSTLY_Q4_0,
            "general.quantization_version": 2,
            "phi3.context_length": min(exported.context, tiny.sliding_window or exported.context),
            "phi3.embedding_length": tiny.hidden,
            "phi3.feed_forward_length": tiny.ffn,
            "phi3.block_count": tiny.layers,
            "phi3.attention.head_count": tiny.heads,
            "phi3.attention.head_count_kv": tiny.kv_heads,
            "phi3.rope.dimension_count": int(tiny.hidden // tiny.heads * tiny.partial_rotary),
            "phi3.rope.freq_base": tiny.rope_theta,
            "phi3.rope.scaling.original_context_length": tiny.original_context,
            "phi3.attention.sliding_window": 2047 if tiny.sliding_window == 2047 else 0,
            "phi3.vocab_size": tiny.vocab,
        }
        assert {key: found[key] for key in expected} == expected
        assert found["phi3.attention.layer_norm_rms_epsilon"] == np.float32(1e-5)
        if tiny.longrope:
            assert found["phi3.rope.scaling.attn_factor"] == np.float32(rotary.magnitude)

    def test_longrope_has_both_sets_of_factors(self, exports: Exports, shape: str) -> None:
        exported = exports(shape)
        rotary = exported.checkpoint.architecture.attention.rotary
        found = {
            tensor.name: tensor.data.tolist()
            for tensor in gguf.GGUFReader(exported.folder / "model.gguf").tensors
            if tensor.name.startswith("rope_factors")
        }
        expected = {
            f"rope_factors_{which}.weight": np.array(factors, np.float32).tolist()
            for which, factors in (("long", rotary.long_factor), ("short", rotary.short_factor))
            if factors is not None
        }
        assert found == expected

    def test_the_same_bytes_again(self, exports: Exports, shape: str, tmp_path: Path) -> None:
        first, second = exports(shape), export(tmp_path, shape)
        files = {file.name for file in first.folder.iterdir()}
        assert files == {"model.gguf", "tokenizer.json", "Modelfile"}
        for file in files:
            assert (first.folder / file).read_bytes() == (second.folder / file).read_bytes(), file


def test_the_report_has_the_hash_of_the_file(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny_checkpoint(tmp_path / "tiny"), id="tiny", revision="local")
    plans = plan_tensors(checkpoint.architecture, DEFAULT, "K-quants")
    report = exporter.write_artifact(tmp_path, checkpoint, plans, TARGET, 64)
    data = (tmp_path / report.data_file).read_bytes()
    assert (report.data_file, report.data_size) == ("model.gguf", len(data))
    assert report.data_sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("quant", "message"),
    [
        (portable(group_size=64), "expected symmetric groups of 32 .* found symmetric groups of 64"),
        (portable(group_size=32, symmetric=False), "found groups with zero points of 32"),
    ],
)
def test_what_no_block_holds_exactly_is_refused(tmp_path: Path, quant: Quant, message: str) -> None:
    checkpoint = open_checkpoint(write_tiny_checkpoint(tmp_path), id="tiny", revision="local")
    with pytest.raises(NotSupportedError, match=message):
        exporter.check_schemes(plan_tensors(checkpoint.architecture, quant, "K-quants"), TARGET)


def test_k_quants_say_so_in_the_header(tmp_path: Path) -> None:
    exported = export(tmp_path, "mini-4k", quant=portable(formats="native", head_bits=8), context=64)
    assert header(exported.folder)["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q4_K_M
    kinds = {
        tensor.name: tensor.tensor_type.name
        for tensor in gguf.GGUFReader(exported.folder / "model.gguf").tensors
    }
    assert kinds["output.weight"] == "Q6_K"
    assert kinds["token_embd.weight"] == "Q4_K"
    assert kinds["blk.1.attn_qkv.weight"] == "Q5_K"
    assert kinds["blk.1.ffn_up.weight"] == "Q4_K"
    assert kinds["blk.1.ffn_down.weight"] == "Q5_K"


def test_rows_that_are_no_super_blocks_have_groups_of_32(tmp_path: Path) -> None:
    quant = portable(formats="native", embedding_bits=8, head_bits=8)
    exported = export(tmp_path, "mini-4k", quant=quant, context=64, hidden=192, heads=4, kv_heads=4)
    kinds = {
        tensor.name: tensor.tensor_type.name
        for tensor in gguf.GGUFReader(exported.folder / "model.gguf").tensors
    }
    assert kinds["output.weight"] == "Q8_0"
    assert kinds["blk.0.attn_qkv.weight"] == "Q5_1"
    assert kinds["blk.0.ffn_up.weight"] == "Q5_0"
    assert kinds["blk.1.ffn_down.weight"] == "Q5_K"  # of 512 columns
    check(exported, 40)
    check_reads_as_the_gguf_library(exported)


@pytest.mark.parametrize(
    ("quant", "file_type"),
    [
        (portable(formats="native", mixture="small", group_size=32), "MOSTLY_Q5_0"),
        (portable(group_size=32), "MOSTLY_Q4_0"),
        (portable(group_size=32, bits=8), "MOSTLY_Q8_0"),
    ],
    ids=["q5_0", "q4_0", "q8_0"],
)
def test_a_file_whose_layers_are_all_of_one_type_says_so(
    tmp_path: Path, quant: Quant, file_type: str
) -> None:
    exported = export(tmp_path, "mini-4k", quant=quant, context=64, hidden=64, heads=2, kv_heads=2, ffn=64)
    assert header(exported.folder)["general.file_type"] == gguf.LlamaFileType[file_type]


def test_every_plain_type_of_blocks_has_a_name_for_a_whole_file() -> None:
    plain = {kind for scheme, kind in TYPES.items() if scheme.scales != "superblocks"}
    assert {kind.name: FILE_TYPES[kind].name for kind in plain} == {
        kind.name: f"MOSTLY_{kind.name}" for kind in plain
    }


class TestModelfile:
    """Ollama cannot be had here: its file is parsed by its documented grammar, its template run by Go's."""

    @pytest.mark.parametrize("shape", KINDS)
    def test_it_says_where_from_what_stops_and_how_far(self, exports: Exports, shape: str) -> None:
        exported = exports(shape)
        text = (exported.folder / "Modelfile").read_text()
        assert re.findall(r"^FROM (.+)$", text, re.MULTILINE) == ["./model.gguf"]
        stops = set(re.findall(r'^PARAMETER stop "([^"\n]+)"$', text, re.MULTILINE))
        special = exported.checkpoint.tokenizer.special_tokens
        assert {special[stop] for stop in stops} == set(exported.checkpoint.tokenizer.stop_token_ids)
        context = header(exported.folder)["phi3.context_length"]
        assert re.findall(r"^PARAMETER num_ctx (\d+)$", text, re.MULTILINE) == [str(context)]
        # Nothing else: every line outside of the template is one of these or a comment.
        outside = re.sub(r'^TEMPLATE """.*?"""\n', "", text, flags=re.MULTILINE | re.DOTALL)
        assert all(re.match(r"FROM |PARAMETER |# ", line) for line in outside.splitlines())

    @pytest.mark.slow
    @pytest.mark.skipif(shutil.which("go") is None, reason="needs Go, whose templates Ollama uses")
    @pytest.mark.parametrize("assistant_strips", [True, False])
    @pytest.mark.parametrize("chat", [PHI_3_CHAT, PHI_4_MINI_CHAT, PHI_4_CHAT], ids=lambda chat: chat.name)
    def test_gos_template_engine_makes_the_prompt_that_jinja_makes(
        self, tmp_path: Path, chat: ChatFormat, assistant_strips: bool
    ) -> None:
        flags = {"<|assistant|>": assistant_strips, "<|user|>": False, "<|end|>": False, "<|system|>": False}
        tokenizer = read_gguf_tokenizer(with_flags(demo_tokenizer(), tmp_path, flags), 768)
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": 'Line\nbreak, "quotes" & <tags> {{ braces }}'},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "And ünïcödé 中文?"},
        ]
        (tmp_path / "main.go").write_text(
            "package main\n"
            'import ("encoding/json"; "os"; "text/template")\n'
            "type Message struct { Role, Content string }\n"
            "func main() {\n"
            "  var messages []Message\n"
            "  if json.NewDecoder(os.Stdin).Decode(&messages) != nil { os.Exit(1) }\n"
            '  parsed := template.Must(template.New("").Parse(os.Args[1]))\n'
            '  if parsed.Execute(os.Stdout, map[string]any{"Messages": messages}) != nil { os.Exit(1) }\n'
            "}\n"
        )
        found = subprocess.run(
            ["go", "run", str(tmp_path / "main.go"), go_template(chat, breaks_after(tokenizer, chat))],
            input=json.dumps(messages),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        expected = Environment(autoescape=False).from_string(chat_template(tokenizer, chat))
        assert found == expected.render(messages=messages, add_generation_prompt=True)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The demo, built and verified as a user would, in the formats whose products llama.cpp rounds least."""
    recipe = dataclasses.replace(read_recipe("demo"), quant=portable(group_size=32))
    located = find_checkpoint("demo", recipe, None, progress=False)
    request = BuildRequest("demo", TARGET, recipe, tmp_path_factory.mktemp("demo") / "bundle")
    built = build(request, located, silent)
    checkpoint = open_checkpoint(located.folder, id=located.id, revision=located.revision)
    return Exported(checkpoint, built.folder, 4096)


class TestDemo:
    @pytest.mark.parametrize("length", [16, 48])
    def test_greedy_answers_are_transformers_for_64_steps(self, demo: Exported, length: int) -> None:
        text = "".join(passage.text for passage in passages(as_phi_3, "device"))
        prompt = demo.engine.encode(text)[:length]
        answer = greedy(demo.engine, prompt, 64)
        logits = demo.expected(prompt + answer)
        assert answer == logits[length - 1 : -1].argmax(axis=1).tolist()
        assert len(set(answer)) > 16

    def test_its_certificate_shows_rounding_only(self, demo: Exported) -> None:
        certificate = read_manifest(demo.bundle).certificate
        assert certificate.export_error is not None
        assert certificate.export_error.kl_mean < 1e-3
        assert certificate.provider == "cpu"
        assert "provider" not in certificate.note
