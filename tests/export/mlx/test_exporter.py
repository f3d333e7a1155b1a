"""The MLX artifact: what transformers computes with its weights, mlx-lm computes too; and its files.

The oracle's weights come out of MLX's own reader and `mx.dequantize`, the model out of `mlx_lm`, unchanged.
"""

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgephi.build.plan import make_plan
from edgephi.build.tensor_plans import plan_tensors
from edgephi.checkpoint.checkpoint import Checkpoint, open_checkpoint
from edgephi.declared.recipe import Quant, read_recipe
from edgephi.declared.target import Kernels, read_target
from edgephi.errors import BadCheckpointError, NotSupportedError
from edgephi.export.mlx import exporter, layout
from edgephi.export.onnx import exporter as onnx_exporter
from edgephi.export.tensor_names import tensor_name
from edgephi.quantize.groups import ErrorSums, Groups, dequantize
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan
from tests.export.oracle import expected_logits, mean_kl, tensors_of, transformers_model
from tests.portable import portable
from tests.property_profile import examples
from tests.tiny_checkpoint import SHAPES, tiny_weights, write_tiny_checkpoint, write_weights

mx: Any = pytest.importorskip("mlx.core")
safetensors_numpy = pytest.importorskip("safetensors.numpy")

Floats = NDArray[np.float32]
FloatName = Literal["float32", "float16"]

KINDS = list(SHAPES)
# Rounding noise of float32; and of float16 on x86, where MLX sums in float16 as well.
LIMITS: dict[FloatName, float] = {"float32": 1e-9, "float16": 2e-3}
SMALL: dict[str, Any] = {"layers": 1, "hidden": 128, "ffn": 128, "std": 0.1}
"""Options of a checkpoint whose thousands of tokens take a second or two in MLX's CPU kernels."""


@dataclass(frozen=True)
class Exported:
    """A tiny checkpoint and its artifact."""

    checkpoint: Checkpoint
    folder: Path
    context: int

    @cached_property
    def model(self) -> Any:
        """As `mlx_lm.load` opens the folder; nothing of ours is in between."""
        from mlx_lm.utils import load_model

        model, _ = load_model(self.folder)
        return model

    @cached_property
    def oracle(self) -> Any:
        """Transformers with the weights as MLX dequantises them."""
        model = transformers_model(self.checkpoint.folder)
        weights = dequantised(self.folder)
        parameters = dict(model.named_parameters())
        assert parameters.keys() == weights.keys()
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(torch.from_numpy(weights[name]))
        return model

    @property
    def config(self) -> Any:
        return json.loads((self.folder / "config.json").read_text())

    def prefill(self, ids: list[int]) -> Floats:
        """Logits of every token of one prefill."""
        return np.array(self.model(mx.array([ids]))[0].astype(mx.float32))

    def stepped(self, ids: list[int]) -> Floats:
        """Logits of every token, each computed alone on the cache of those before."""
        from mlx_lm.models.cache import make_prompt_cache

        cache = make_prompt_cache(self.model)
        rows = [self.model(mx.array([[token]]), cache=cache)[0].astype(mx.float32) for token in ids]
        return np.concatenate([np.array(row) for row in rows])


def export(
    folder: Path,
    shape: str,
    *,
    floats: FloatName = "float32",
    context: int | None = None,
    quant: Quant | None = None,
    **options: Any,
) -> Exported:
    """Export a tiny checkpoint for a context, by default the largest that the plan allows."""
    tiny = write_tiny_checkpoint(folder / "checkpoint", shape, **{"std": 0.1, **options})
    checkpoint = open_checkpoint(tiny, id="tiny", revision="local")
    artifact = folder / "artifact"
    artifact.mkdir()
    return export_opened(checkpoint, artifact, floats=floats, context=context, quant=quant)


def export_opened(
    checkpoint: Checkpoint,
    artifact: Path,
    *,
    floats: FloatName = "float32",
    context: int | None = None,
    quant: Quant | None = None,
) -> Exported:
    architecture = checkpoint.architecture
    limit = exporter.context_limit(architecture)
    context = context or (architecture.context if limit is None else limit.tokens)
    target = dataclasses.replace(read_target("mlx"), kernels=Kernels(activations=floats))
    plans = plan_tensors(architecture, quant or portable(group_size=32), "offsets")
    exporter.check_schemes(plans, target)
    report = exporter.write_artifact(artifact, checkpoint, plans, target, context)
    assert report.data_size == exporter.artifact_bytes(architecture, plans, target, context)
    return Exported(checkpoint, artifact, context)


def dequantised(folder: Path) -> dict[str, Floats]:
    """The weights by MLX's own reader and dequantiser, float32, under the checkpoint's names."""
    stored = mx.load(str(folder / "model.safetensors"))
    quantization = json.loads((folder / "config.json").read_text())["quantization"]
    weights = {}
    for name in [name for name in stored if name.endswith((".weight", ".bias"))]:
        prefix = name.removesuffix(".weight")
        array = stored[name]
        if f"{prefix}.scales" in stored:
            own = quantization.get(prefix, quantization)
            small = [stored[f"{prefix}.{part}"].astype(mx.float32) for part in ("scales", "biases")]
            array = mx.dequantize(array, *small, group_size=own["group_size"], bits=own["bits"])
        weights[name] = np.array(array.astype(mx.float32))
    return weights


def some_ids(count: int, *, seed: int = 0, vocabulary: int = 512) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, vocabulary, count)]


Exports = Callable[[str], Exported]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Each shape, exported once in float32."""
    made: dict[str, Exported] = {}

    def get(shape: str) -> Exported:
        if shape not in made:
            made[shape] = export(tmp_path_factory.mktemp(shape), shape)
        return made[shape]

    return get


@pytest.mark.parametrize("shape", KINDS)
class TestAgainstTransformers:
    def test_prompts(self, exports: Exports, shape: str) -> None:
        exported = exports(shape)
        ids = some_ids(200)
        expected = expected_logits(exported.oracle, ids)
        # The test would see nothing if every token were equally likely.
        assert expected.std(axis=1).min() > 0.05
        for length in (1, 2, 33, 200):
            assert mean_kl(expected[:length], exported.prefill(ids[:length])) <= LIMITS["float32"]

    def test_token_by_token(self, exports: Exports, shape: str) -> None:
        ids = some_ids(17, seed=1)
        expected = expected_logits(exports(shape).oracle, ids)
        assert mean_kl(expected, exports(shape).stepped(ids)) <= LIMITS["float32"]

    def test_in_float16(self, tmp_path: Path, shape: str) -> None:
        exported = export(tmp_path, shape, floats="float16", **SMALL)
        ids = some_ids(24)
        expected = expected_logits(exported.oracle, ids)
        assert mean_kl(expected, exported.prefill(ids)) <= LIMITS["float16"]

    @pytest.mark.slow
    def test_up_to_the_largest_context(self, tmp_path: Path, shape: str) -> None:
        exported = export(tmp_path, shape, **SMALL)
        length = min(exported.context, 4096)
        assert length == (2047 if SHAPES[shape].sliding_window == 2047 else 4096)
        ids = some_ids(length)
        expected = expected_logits(exported.oracle, ids)
        assert mean_kl(expected, exported.prefill(ids)) <= LIMITS["float32"]


class TestContextLimit:
    def test_a_window_ends_it(self, tmp_path: Path) -> None:
        exported = export(tmp_path, "mini-4k", sliding_window=33, **SMALL)
        assert exported.context == 33
        limit = exporter.context_limit(exported.checkpoint.architecture)
        assert limit is not None
        assert "window" in limit.reason
        ids = some_ids(64)
        expected, found = expected_logits(exported.oracle, ids), exported.prefill(ids)
        assert mean_kl(expected[:33], found[:33]) <= LIMITS["float32"]
        # And one token further it would be wrong.
        assert mean_kl(expected[33:], found[33:]) > 1e-4

    def test_longrope_ends_it(self, tmp_path: Path) -> None:
        exported = export(tmp_path, "mini-128k", original_context=48, **SMALL)
        assert exported.context == 48
        limit = exporter.context_limit(exported.checkpoint.architecture)
        assert limit is not None
        assert "LongRoPE" in limit.reason
        ids = some_ids(49)
        expected = expected_logits(exported.oracle, ids[:48])
        assert mean_kl(expected, exported.prefill(ids[:48])) <= LIMITS["float32"]
        assert mean_kl(expected_logits(exported.oracle, ids), exported.prefill(ids)) > 1e-4

    def test_the_smaller_of_the_two(self, tmp_path: Path) -> None:
        options = {"context": 512, "original_context": 64, **SMALL}
        for window, expected in ((32, 32), (100, 64), (1000, 64)):
            folder = write_tiny_checkpoint(
                tmp_path / str(window), "mini-128k", sliding_window=window, **options
            )
            architecture = open_checkpoint(folder, id="tiny", revision="local").architecture
            limit = exporter.context_limit(architecture)
            assert limit is not None
            assert limit.tokens == expected

    def test_without_either_it_is_the_models(self, exports: Exports) -> None:
        assert exporter.context_limit(exports("phi-4").checkpoint.architecture) is None

    def test_a_plan_serves_no_more_and_says_why(self, exports: Exports) -> None:
        architecture = exports("mini-128k").checkpoint.architecture
        target, recipe = read_target("mlx"), read_recipe("default")
        assert make_plan("tiny", architecture, recipe, target).context == 4096
        with pytest.raises(NotSupportedError, match="context 4097: mlx-lm never changes") as caught:
            make_plan("tiny", architecture, recipe, target, context=4097)
        assert "--context 4096 works" in caught.value.hint


@pytest.mark.parametrize("factor", [1.0, 1.05, 1.5])
def test_longropes_own_attention_factor(tmp_path: Path, factor: float) -> None:
    tiny = write_tiny_checkpoint(tmp_path / "checkpoint", "mini-128k", **SMALL)
    config = json.loads((tiny / "config.json").read_text())
    config["rope_scaling"]["attention_factor"] = factor
    (tiny / "config.json").write_text(json.dumps(config))
    (tmp_path / "artifact").mkdir()
    checkpoint = open_checkpoint(tiny, id="tiny", revision="local")
    exported = export_opened(checkpoint, tmp_path / "artifact")
    ids = some_ids(64)
    assert mean_kl(expected_logits(exported.oracle, ids), exported.prefill(ids)) <= LIMITS["float32"]


@pytest.mark.parametrize("factor", [0.5, 5.0])
def test_an_attention_factor_that_mlx_lm_cannot_have_is_refused(tmp_path: Path, factor: float) -> None:
    tiny = write_tiny_checkpoint(tmp_path / "checkpoint", "mini-128k", **SMALL)
    config = json.loads((tiny / "config.json").read_text())
    config["rope_scaling"]["attention_factor"] = factor
    (tiny / "config.json").write_text(json.dumps(config))
    architecture = open_checkpoint(tiny, id="tiny", revision="local").architecture
    with pytest.raises(NotSupportedError, match=f"attention factor {factor:g}"):
        make_plan("tiny", architecture, read_recipe("default"), read_target("mlx"))


QUANTS = [
    portable(group_size=32),
    portable(group_size=64, method="rtn"),
    portable(group_size=128, embedding_bits=8),
    portable(group_size=64, head_bits=8),
    portable(group_size=128, embedding_bits=8, head_bits=8),
    portable(bits=8, group_size=32, embedding_bits=4, head_bits=8),
    portable(group_size=32, symmetric=False),
    portable(bits=8, group_size=128, embedding_bits=8, head_bits=8, symmetric=False),
]


def quant_name(quant: Quant) -> str:
    kind = "" if quant.symmetric else "-asym"
    return f"{quant.bits}{quant.embedding_bits}{quant.head_bits}-g{quant.group_size}{kind}-{quant.method}"


@pytest.mark.parametrize("shape", ["mini-4k", "phi-4-mini"])  # the latter's head is tied to its embedding
@pytest.mark.parametrize("quant", QUANTS, ids=quant_name)
def test_every_kind_of_quantisation(tmp_path: Path, shape: str, quant: Quant) -> None:
    exported = export(tmp_path, shape, quant=quant, context=64, **SMALL)
    ids = some_ids(40)
    assert mean_kl(expected_logits(exported.oracle, ids), exported.prefill(ids)) <= LIMITS["float32"]
    check_same_numbers(exported, tmp_path / "onnx", quant)


@pytest.mark.parametrize("floats", ["float32", "float16"])
@pytest.mark.parametrize("shape", KINDS)
def test_the_weights_are_those_of_the_onnx_artifact(tmp_path: Path, shape: str, floats: FloatName) -> None:
    quant = portable(bits=4, group_size=32, symmetric=True)
    exported = export(tmp_path, shape, quant=quant, floats=floats, context=64)
    check_same_numbers(exported, tmp_path / "onnx", quant)


def check_same_numbers(exported: Exported, folder: Path, quant: Quant) -> None:
    """MLX's numbers, our reader's and the ONNX artifact's by the onnx library, bit for bit."""
    folder.mkdir()
    architecture = exported.checkpoint.architecture
    plans = plan_tensors(architecture, quant, "offsets")
    onnx_exporter.write_artifact(folder, exported.checkpoint, plans, read_target("cpu"), 64)
    expected = tensors_of(folder)
    by_mlx = dequantised(exported.folder)
    ours = exporter.artifact_weights(exported.folder, architecture)
    for tensor, shape in architecture.tensor_shapes().items():
        name, read = tensor_name(tensor), ours.rows(tensor, 0, shape[0])
        np.testing.assert_array_equal(read, by_mlx[name], strict=True)
        start, stop = shape[0] // 3, shape[0] // 2
        np.testing.assert_array_equal(ours.rows(tensor, start, stop), read[start:stop], strict=True)
        if len(shape) == 2:
            np.testing.assert_array_equal(by_mlx[name], expected[name], strict=True)
        else:  # a norm's vector may be float16
            np.testing.assert_allclose(by_mlx[name], expected[name], rtol=1e-3)


SCHEMES = [
    Scheme(4, 32),
    Scheme(4, 64),
    Scheme(4, 128),
    Scheme(8, 32),
    Scheme(8, 128),
    Scheme(4, 32, symmetric=False),
    Scheme(8, 64, symmetric=False),
]


@given(data=st.data())
@settings(max_examples=examples(60))
def test_packed_groups_are_what_mlx_unpacks(data: st.DataObject) -> None:
    scheme = data.draw(st.sampled_from(SCHEMES))
    size = scheme.group_size
    floats = np.dtype(np.float16 if scheme.symmetric and data.draw(st.booleans()) else np.float32)
    rows, groups = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 5)))
    random = np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
    codes = random.integers(0, scheme.levels, (rows, groups * size)).astype(np.uint8)
    exponent = data.draw(st.integers(-24, 4))  # down to the smallest float16 that there is
    scales = (random.standard_normal((rows, groups)) * 2.0**exponent).astype(np.float16)
    zeros = None if scheme.symmetric else random.integers(0, scheme.levels, (rows, groups)).astype(np.uint8)
    packed = layout.pack(Groups(codes, scales, zeros, ErrorSums()), scheme, floats)
    assert {array.dtype for array in packed[1:]} == {floats}
    small = [mx.array(array).astype(mx.float32) for array in packed[1:]]
    words = mx.array(packed[0].view(np.uint32))
    found = np.array(mx.dequantize(words, *small, group_size=size, bits=scheme.bits))
    np.testing.assert_array_equal(found, dequantize(codes, scales, scheme.middle if zeros is None else zeros))


def test_mlx_packs_the_same_words(tmp_path: Path) -> None:
    """The codes of MLX's own quantiser, put through our packer, give its words again."""
    random = np.random.default_rng(0)
    words, scales, biases = mx.quantize(mx.array(random.standard_normal((8, 256))), group_size=64, bits=4)
    found = np.array(mx.dequantize(words, mx.ones_like(scales), mx.zeros_like(biases), group_size=64, bits=4))
    groups = Groups(found.astype(np.uint8), np.ones((8, 4), np.float16), None, ErrorSums())
    packed = layout.pack(groups, Scheme(4, 64), np.dtype(np.float16))[0]
    np.testing.assert_array_equal(packed.view(np.uint32), np.array(words))


class TestWhatFloat16CannotHold:
    def test_zero_points_are_refused_before_anything_is_written(self, exports: Exports) -> None:
        plans = plan_tensors(exports("mini-4k").checkpoint.architecture, portable(symmetric=False))
        with pytest.raises(NotSupportedError, match="expected symmetric = true with float16") as caught:
            exporter.check_schemes(plans, read_target("mlx"))
        assert "float32" in caught.value.hint
        float32 = dataclasses.replace(read_target("mlx"), kernels=Kernels(activations="float32"))
        exporter.check_schemes(plans, float32)

    def test_the_target_makes_every_recipe_symmetric(self, exports: Exports) -> None:
        recipe = read_recipe("default")
        recipe = dataclasses.replace(recipe, quant=portable(group_size=32, symmetric=False))
        plan = make_plan("tiny", exports("phi-4").checkpoint.architecture, recipe, read_target("mlx"))
        assert plan.recipe.quant.symmetric

    def test_a_bias_past_its_range(self, tmp_path: Path) -> None:
        folder = write_tiny_checkpoint(tmp_path / "checkpoint", "mini-4k", dtype="F32", **SMALL)
        tiny = dataclasses.replace(SHAPES["mini-4k"], dtype="F32", **SMALL)
        weights = tiny_weights(tiny)
        weights["model.layers.0.mlp.down_proj.weight"][3, 5] = 7e4
        write_weights(folder, weights, dtype="F32")
        checkpoint = open_checkpoint(folder, id="tiny", revision="local")
        for name in ("float16", "float32"):
            (tmp_path / name).mkdir()
        with pytest.raises(BadCheckpointError, match=r"down_proj.*expected finite weights, found a group"):
            export_opened(checkpoint, tmp_path / "float16", floats="float16", context=64)
        export_opened(checkpoint, tmp_path / "float32", context=64)


class TestFiles:
    def test_the_safetensors_library_reads_them(self, exports: Exports) -> None:
        exported = exports("phi-4-mini")
        arrays = safetensors_numpy.load_file(exported.folder / "model.safetensors")
        stored = mx.load(str(exported.folder / "model.safetensors"))
        assert arrays.keys() == stored.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, np.array(stored[name]))
        assert not any(name.startswith("lm_head") for name in arrays)  # tied
        index = json.loads((exported.folder / "model.safetensors.index.json").read_text())
        assert index["weight_map"] == dict.fromkeys(arrays, "model.safetensors")
        assert index["metadata"]["total_size"] == sum(array.nbytes for array in arrays.values())

    def test_words_are_aligned(self, exports: Exports) -> None:
        raw = (exports("mini-4k").folder / "model.safetensors").read_bytes()
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + length])
        assert (8 + length) % 4096 == 0
        assert header.pop("__metadata__") == {"format": "mlx"}
        for entry in header.values():
            assert (8 + length + entry["data_offsets"][0]) % (2 if entry["dtype"] == "F16" else 4) == 0

    @pytest.mark.parametrize("shards", [1, 3])
    def test_the_same_bytes_again(self, tmp_path: Path, shards: int) -> None:
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
        first, second = (
            export(tmp_path / name, "mini-128k", floats="float16", shards=shards, **SMALL)
            for name in ("first", "second")
        )
        files = {file.name for file in first.folder.iterdir()}
        assert files == {
            "model.safetensors",
            "model.safetensors.index.json",
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        }
        for file in files:
            assert (first.folder / file).read_bytes() == (second.folder / file).read_bytes(), file

    def test_it_is_written_without_mlx(self, tmp_path: Path) -> None:
        code = (
            "import sys\n"
            "for name in ('mlx', 'mlx_lm', 'transformers', 'torch'): sys.modules[name] = None\n"
            "from edgephi.cli.main import main\n"
            f"main(['build', 'demo', '--target', 'mlx', '--verify', 'off', '-o', {str(tmp_path / 'out')!r}])"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        assert (tmp_path / "out/model/model.safetensors").stat().st_size > 1_000_000


@pytest.mark.parametrize("shape", ["mini-4k", "phi-4"])
class TestTokenizer:
    def test_mlx_lm_stops_where_we_do(self, exports: Exports, shape: str) -> None:
        from mlx_lm import load

        exported = exports(shape)
        _, tokenizer = load(str(exported.folder), lazy=True)
        stops = exported.checkpoint.tokenizer.stop_token_ids
        assert tokenizer.eos_token_ids == set(stops)
        assert len(stops) == (2 if SHAPES[shape].chat == "phi-4" else 3)
        assert tokenizer.eos_token_id in stops

    def test_transformers_gives_the_same_ids(self, exports: Exports, shape: str) -> None:
        from tokenizers import Tokenizer
        from transformers import AutoTokenizer

        exported = exports(shape)
        theirs = AutoTokenizer.from_pretrained(exported.folder)
        ours = Tokenizer.from_file(str(exported.checkpoint.folder / "tokenizer.json"))
        messages = [
            {"role": "system", "content": "be  brief "},
            {"role": "user", "content": "ünïcödé 你好\n\n\tturn on the light😀"},
        ]
        chat = exported.checkpoint.tokenizer.chat
        text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert "be  brief " in text
        assert any(token in text for token in chat.stop_texts)
        ids = ours.encode(text, add_special_tokens=False).ids
        assert theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"] == ids
        for add_special_tokens in (True, False):  # there are none to add
            assert theirs.encode(text, add_special_tokens=add_special_tokens) == ids


def test_the_rotated_share_of_a_head_survives_rounding(tmp_path: Path) -> None:
    # 30 of 88 dimensions: 88 * (30 / 88) is a little less than 30
    assert int(88 * (30 / 88)) == 29
    options: dict[str, Any] = {**SMALL, "hidden": 352, "kv_heads": 4, "partial_rotary": 30.5 / 88}
    exported = export(tmp_path, "mini-128k", context=64, **options)
    assert exported.checkpoint.architecture.attention.rotary.size == 30
    assert exported.model.layers[0].self_attn.rope.dim == 30


def test_the_magnitude_is_the_published_one(exports: Exports) -> None:
    rope = exports("mini-128k").model.layers[0].self_attn.rope
    assert math.isclose(rope._scale, exports("mini-128k").checkpoint.architecture.attention.rotary.magnitude)
    assert exports("mini-128k").config["max_position_embeddings"] == 131072


def test_our_quantiser_stays_the_source_of_the_codes(exports: Exports) -> None:
    """The words of the file are the codes of the checkpoint's own rows."""
    exported = exports("medium")
    name = "model.layers.1.self_attn.o_proj.weight"
    tiny = dataclasses.replace(SHAPES["medium"], std=0.1)
    bits = tiny_weights(tiny)[name].view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)  # bfloat16, as stored
    groups = Quantizer().quantize(rounded, TensorPlan(Scheme(4, 32)))
    found = dequantised(exported.folder)[name]
    np.testing.assert_array_equal(found, dequantize(groups.codes, groups.scales, 8))
