"""The adapter of OpenVINO GenAI, on bundles of the demo and of a tiny LongRoPE model."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

import edgephi.runtime
from edgephi.build.build import build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.bundle.manifest import ARTIFACT_FOLDER, Requires, read_manifest
from edgephi.declared.recipe import read_recipe
from edgephi.declared.target import read_target
from edgephi.engines.openvino_genai import GRAPH_FILE
from edgephi.errors import BadBundleError, BadInputError, DoesNotFitError, NotSupportedError
from edgephi.runtime.adapter import Adapter, Engine, open_engine
from edgephi.runtime.engines.openvino_genai import adapter
from edgephi.runtime.engines.openvino_genai import decoder as openvino_decoder
from edgephi.runtime.engines.openvino_genai.adapter import OpenvinoEngine
from edgephi.runtime.engines.openvino_genai.decoder import _PagedDecoder, _StatefulDecoder, open_decoder
from edgephi.runtime.session import Options, Session
from edgephi.steps import silent
from tests.installs import installs
from tests.portable import portable
from tests.runtime.engines.cache_behaviour import (
    CacheBehaviour,
    LongRopeBehaviour,
    WindowBehaviour,
    fresh_logits,
    greedy,
    grow,
    open_windowed,
    some_ids,
    taken_at_opening,
)
from tests.runtime.engines.openvino_float32 import float32_core
from tests.tiny_checkpoint import write_tiny_checkpoint

np = pytest.importorskip("numpy")
tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("openvino_genai")

QUESTION = "turn on the kitchen light"
ANSWER = '{"action": "turn_on", "room": "kitchen", "device": "light"}'
ADAPTER: Adapter = adapter

PROMPTS = [
    QUESTION,
    "  two spaces, a line\n\n and a tab\t.",
    "ünïcödé — 你好世界 العربية",
    "😀 👩\u200d👩\u200d👧",
    "<|user|>\nspecial<|end|>\n<|assistant|>\n  words",
    "before\0after",
]


@pytest.fixture(scope="module", autouse=True)
def _float32() -> Iterator[None]:
    openvino = adapter._import_engine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino, "Core", float32_core(openvino))
        yield


def build_for_openvino(model: str, folder: Path, **options: Any) -> Path:
    quick = dataclasses.replace(read_recipe("default"), quant=portable(method="rtn"))
    request = BuildRequest(
        model=model,
        target=read_target("openvino"),
        recipe=read_recipe("demo") if model == "demo" else quick,
        output=folder,
        verify="off",
        **options,
    )
    build(request, find_checkpoint(model, request.recipe, None, progress=False), silent)
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_for_openvino("demo", tmp_path_factory.mktemp("openvino") / "demo")


@pytest.fixture(scope="module")
def session(bundle: Path) -> Session:
    return edgephi.runtime.load(bundle)


@pytest.fixture(scope="module")
def engine(session: Session) -> OpenvinoEngine:
    assert isinstance(session.engine, OpenvinoEngine)
    return session.engine


ORIGINAL = 40


@pytest.fixture(scope="module")
def longrope_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LongRoPE's factors change at 40 tokens. Weights that make positions matter."""
    folder = tmp_path_factory.mktemp("longrope")
    tiny = write_tiny_checkpoint(
        folder / "tiny", "mini-128k", original_context=ORIGINAL, context=1024, std=0.15
    )
    return build_for_openvino(str(tiny), folder / "bundle", context=512)


@pytest.fixture(scope="module")
def longrope(longrope_bundle: Path) -> OpenvinoEngine:
    opened = edgephi.runtime.load(longrope_bundle).engine
    assert isinstance(opened, OpenvinoEngine)
    return opened


class TestText:
    @pytest.mark.parametrize("prompt", PROMPTS)
    def test_encodes_as_the_tokenizer_file_says(self, session: Session, bundle: Path, prompt: str) -> None:
        oracle = tokenizers.Tokenizer.from_file(str(bundle / "model/tokenizer.json"))
        rendered = session.render(prompt, "be brief")
        assert session.engine.encode(rendered) == oracle.encode(rendered, add_special_tokens=False).ids

    def test_renders_with_the_manifests_template(self, session: Session) -> None:
        assert session.render("hi\n<é>", "sys") == (
            "<|system|>\nsys<|end|>\n<|user|>\nhi\n<é><|end|>\n<|assistant|>\n"
        )

    @pytest.mark.parametrize("prompt", PROMPTS)
    def test_a_stream_of_tokens_is_their_text(
        self, engine: OpenvinoEngine, bundle: Path, prompt: str
    ) -> None:
        oracle = tokenizers.Tokenizer.from_file(str(bundle / "model/tokenizer.json"))
        before, *ids = oracle.encode(f"<|assistant|>{prompt * 5}", add_special_tokens=False).ids
        stream = engine.decode_stream(before)
        pieces = [stream.decode(id_) for id_ in ids]
        assert "".join(pieces) == oracle.decode(ids)
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
        assert len([piece for piece in pieces if piece]) > 5

    def test_a_stream_goes_on_after_a_word(self, engine: OpenvinoEngine) -> None:
        first, *others = engine.encode("turn on the light")
        stream = engine.decode_stream(first)
        assert "turn".startswith(engine._tokenizer.decode([first]).strip())
        assert (
            engine._tokenizer.decode([first]) + "".join(map(stream.decode, others))
        ) == "turn on the light"

    def test_half_a_surrogate_pair(self, session: Session) -> None:
        for ask in (session.engine.encode, session.generate):
            with pytest.raises(BadInputError, match="surrogate"):
                ask("half \ud800 of a pair")


class TestAnswers:
    def test_the_demo_answers(self, session: Session) -> None:
        generation = session.generate(QUESTION)
        assert generation.text == ANSWER
        assert generation.stop_reason == "stop"

    def test_the_pieces_of_an_answer_are_the_answer(self, session: Session) -> None:
        answer = session.stream("who are you?", Options(max_tokens=24))
        assert "".join(answer) == answer.generation.text != ""
        assert not answer.generation.text.startswith(" ")
        assert answer.generation.generated_tokens == 24

    def test_greedy_takes_the_most_likely_token_each_time(
        self, session: Session, engine: OpenvinoEngine
    ) -> None:
        prompt = engine.encode(session.render("who are you?"))
        tokens = greedy(engine, prompt, 20)
        logits = engine.logits_after(prompt + tokens)[len(prompt) - 1 : -1]
        assert tokens == [int(token) for token in logits.argmax(axis=1)]

    def test_a_prompt_of_many_pieces(self, engine: OpenvinoEngine) -> None:
        ids = (engine.encode("the light in the hall ") * 400)[:1500]
        assert greedy(engine, ids, 1) == [int(engine.logits_after(ids)[-1].argmax())]

    def test_a_new_prompt_forgets_the_last_one(self, session: Session) -> None:
        assert session.generate("who are you?").text != ANSWER
        assert session.generate(QUESTION).text == ANSWER


def test_more_tokens_than_the_cache_was_opened_for(bundle: Path) -> None:
    engine = open_engine(bundle, read_manifest(bundle), context=32)
    assert len(next(engine.logits(some_ids(32), step=32))) == 32
    with pytest.raises(DoesNotFitError, match="at most 32 tokens, found 33"):
        next(engine.logits(some_ids(33), step=33))


class TestCache(CacheBehaviour):
    takes_pieces_of = 256

    def test_its_memory_is_taken_as_tokens_come(self, bundle: Path) -> None:
        ahead, opening, filling = taken_at_opening(bundle)
        assert not ahead
        assert opening < 1e6 < filling

    def test_its_memory_is_given_back(self, engine: OpenvinoEngine) -> None:
        before = psutil.Process().memory_info().rss
        cache = engine.open_cache(4096)
        grow(cache, some_ids(4000))
        held = psutil.Process().memory_info().rss
        cache.close()
        assert held - psutil.Process().memory_info().rss > 3e6
        assert psutil.Process().memory_info().rss - before < held - before


class TestCacheInTheStateOfARequest(CacheBehaviour):
    """As it is wherever there is no paged attention."""

    takes_pieces_of = 256
    tolerance = 1e-2

    @pytest.fixture(scope="class")
    @staticmethod
    def engine(bundle: Path) -> Iterator[Engine]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("edgephi.runtime.engines.openvino_genai.decoder._PagedDecoder", _no_paged_decoder)
            opened = open_engine(bundle, read_manifest(bundle))
        assert isinstance(opened, OpenvinoEngine)
        assert isinstance(opened._decoder, _StatefulDecoder)
        yield opened


class TestInt8Cache(CacheBehaviour):
    """What OpenVINO takes where a graph, of another tool's making, does not say."""

    takes_pieces_of = 256
    tolerance = 0.2

    @pytest.fixture(scope="class")
    @staticmethod
    def engine(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
        own = tmp_path_factory.mktemp("int8") / "bundle"
        shutil.copytree(bundle, own)
        graph = own / "model/openvino_model.xml"
        text = graph.read_text()
        assert '<KV_CACHE_PRECISION value="f16" />' in text
        graph.write_text(
            text.replace('<KV_CACHE_PRECISION value="f16" />', '<KV_CACHE_PRECISION value="u8" />')
        )
        opened = open_engine(own, read_manifest(own))
        assert isinstance(opened, OpenvinoEngine)
        assert isinstance(opened._decoder, _PagedDecoder)
        assert {each.get_element_type().get_type_name() for each in opened._decoder.inputs.values()} == {"u8"}
        return opened


def _no_paged_decoder(*_: Any, **__: Any) -> Any:
    raise openvino_decoder._NotPagedError


class TestWindowedCache(WindowBehaviour):
    @pytest.fixture(scope="class")
    @staticmethod
    def windowed(tmp_path_factory: pytest.TempPathFactory) -> Engine:
        return open_windowed("openvino", tmp_path_factory.mktemp("window"))


class TestLogits:
    def test_they_do_not_depend_on_the_step(self, engine: OpenvinoEngine) -> None:
        ids = engine.encode("turn on the kitchen light and the heating, please " * 8)
        whole = engine.logits_after(ids)
        assert whole.shape == (len(ids), 768)
        assert whole.dtype == np.float32
        for step in (1, 7, 64):
            stepped = np.concatenate(list(engine.logits(ids, step=step)))
            np.testing.assert_allclose(stepped, whole, atol=1e-3 * whole.std())

    def test_a_block_is_not_overwritten_by_the_next(self, engine: OpenvinoEngine) -> None:
        first, *_ = blocks = list(engine.logits(some_ids(6), step=2))
        assert len(blocks) == 3
        np.testing.assert_array_equal(first, next(engine.logits(some_ids(6), step=2)))

    def test_both_kinds_of_cache_agree(self, bundle: Path, engine: OpenvinoEngine) -> None:
        openvino = adapter._import_engine()
        core = openvino.Core()
        file = bundle / ARTIFACT_FOLDER / GRAPH_FILE
        stateful = _StatefulDecoder(openvino, core, core.read_model(file), "CPU", frozenset())
        assert not isinstance(engine._decoder, _StatefulDecoder)
        ids = some_ids(300)
        expected = engine.logits_after(ids)
        for step in (300, 77, 1):
            cache = stateful.open_cache(300, {})
            for start in range(0, 300, step):
                piece = ids[start : start + step]
                found = cache.compute(piece, past=start, total=300, kept=len(piece))
                wanted = expected[start : start + step]
                assert mean_kl(wanted, found) < 1e-5

    def test_a_graph_without_paged_attention(self, bundle: Path, tmp_path: Path) -> None:
        # With attention written out nothing tells where it is; the state of the request still works.
        openvino = adapter._import_engine()
        file = bundle / ARTIFACT_FOLDER / GRAPH_FILE
        model = openvino.Core().read_model(file)
        o = openvino.opset13
        for layer in model.get_ops():
            if layer.get_type_name() == "ScaledDotProductAttention":
                query, keys, values, mask = (layer.input_value(i) for i in range(4))
                root = np.float32(query.get_partial_shape()[3].get_length() ** 0.5)
                scores = o.divide(o.matmul(query, keys, False, True), o.constant(root))
                if mask.get_element_type() == openvino.Type.boolean:
                    mask = o.select(mask, o.constant(np.float32(0)), o.constant(np.float32(-1e9)))
                weights = o.softmax(o.add(scores, mask), -1)
                layer.output(0).replace(o.matmul(weights, values, False, False).output(0))
        openvino.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
        decoder = open_decoder(openvino, tmp_path / "model.xml", device="CPU")
        assert isinstance(decoder, _StatefulDecoder)
        ids = some_ids(20)
        expected, found = (
            each.open_cache(20, {}).compute(ids, past=0, total=20, kept=20)
            for each in (open_decoder(openvino, file, device="CPU"), decoder)
        )
        assert mean_kl(expected, found) < 1e-5


class TestLongRopeCache(LongRopeBehaviour):
    """LongRoPE changes its factors for all tokens when there are more than its original context."""

    @pytest.mark.parametrize("length", [ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, ORIGINAL * 3 // 2, 300])
    def test_prompts_match_transformers(
        self, longrope: OpenvinoEngine, longrope_bundle: Path, length: int
    ) -> None:
        oracle = longrope_oracle(longrope_bundle)
        ids = some_ids(length, seed=length)
        expected = expected_logits(oracle, ids)
        for step in (length, 32, 1):
            found = np.concatenate(list(longrope.logits(ids, step=step)))
            assert mean_kl(expected, found) < 1e-4

    def test_one_step_computes_everything_again(
        self, longrope: OpenvinoEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = longrope.open_cache(ORIGINAL + 3)
        compute, calls = cache._compute, []

        def counted(tokens: list[int], past: int) -> None:
            calls.append((past, len(tokens)))
            compute(tokens, past)

        monkeypatch.setattr(cache, "_compute", counted)
        grow(cache, some_ids(ORIGINAL - 2))
        for token in some_ids(5):
            grow(cache, [token])
        assert calls == [(0, 38), (38, 1), (39, 1), (0, 41), (41, 1), (42, 1)]


@pytest.mark.parametrize("length", [299, 300, 301, 400])
def test_a_prompt_in_pieces_has_one_set_of_factors(tmp_path: Path, length: int) -> None:
    # The original context is longer than a piece. A graph of somebody else's finds the length by itself.
    tiny = write_tiny_checkpoint(
        tmp_path / "tiny", "mini-128k", layers=1, original_context=300, context=1024, std=0.15
    )
    bundle = build_for_openvino(str(tiny), tmp_path / "bundle", context=512)
    ids = some_ids(length)
    whole = edgephi.runtime.load(bundle).engine
    assert isinstance(whole, OpenvinoEngine)
    expected = whole.logits_after(ids)[-1]
    graph = bundle / ARTIFACT_FOLDER / GRAPH_FILE
    text = graph.read_text()
    assert text.count("total_length") == 1
    found = [fresh_logits(whole, ids)]
    graph.write_text(text.replace("total_length", "other_length"))
    other = edgephi.runtime.load(bundle).engine
    assert isinstance(other, OpenvinoEngine)
    assert whole._decoder.is_told_length
    assert not other._decoder.is_told_length
    found.append(fresh_logits(other, ids))
    for scores in found:
        assert mean_kl(expected[None], scores[None]) < 1e-4


def longrope_oracle(bundle: Path) -> Any:
    """transformers with the weights of the bundle's artifact, as OpenVINO reads them."""
    from tests.export.openvino.oracle import tensors_of
    from tests.export.openvino.test_exporter import model_with

    return model_with(bundle.parent / "tiny", tensors_of(bundle / ARTIFACT_FOLDER))


def expected_logits(oracle: Any, ids: list[int]) -> Any:
    from tests.export import oracle as transformers

    return transformers.expected_logits(oracle, ids)


def mean_kl(expected: Any, found: Any) -> float:
    from tests.export import oracle as transformers

    return transformers.mean_kl(expected, found)


class TestInterruption:
    @pytest.fixture(scope="class")
    @staticmethod
    def slow_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A model large enough that a piece of a prompt takes a while."""
        folder = tmp_path_factory.mktemp("slow")
        tiny = write_tiny_checkpoint(folder / "tiny", hidden=1024, layers=4, heads=8, kv_heads=8, ffn=2048)
        return build_for_openvino(str(tiny), folder / "bundle")

    def test_ctrl_c_while_a_prompt_is_computed(self, slow_bundle: Path) -> None:
        program = [sys.executable, "-m", "tests.runtime.engines.interrupted_prompt", str(slow_bundle)]
        done = subprocess.run(program, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["seconds"] < 3  # the whole prompt takes ten times as long
        assert found["greatest_difference"] < 1e-3  # the cache is as good as before


class TestOpening:
    def test_what_runs_is_said(self, engine: OpenvinoEngine) -> None:
        assert engine.name == "openvino-genai"
        assert engine.version == metadata.version("openvino-genai")
        assert engine.provider == "cpu"

    def test_another_engine_version(self, bundle: Path) -> None:
        manifest = read_manifest(bundle)
        object.__setattr__(manifest, "requires", Requires(1, 1, {"openvino-genai": ">=2030,<2031"}))
        with pytest.raises(
            NotSupportedError, match=r"needs openvino-genai >=2030,<2031, found 2026\."
        ) as caught:
            open_engine(bundle, manifest)
        assert "pip install 'openvino-genai>=2030,<2031'" in caught.value.hint

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("openvino_model.xml", "expected a model that openvino-genai 2026"),
            ("tokenizer.json", r"tokenizer\.json: expected a tokenizer"),
        ],
    )
    def test_a_model_the_engine_cannot_read(
        self, bundle: Path, tmp_path: Path, name: str, expected: str
    ) -> None:
        copy = tmp_path / "bundle"
        shutil.copytree(bundle, copy)
        (copy / "model" / name).write_bytes(b"{" * (copy / "model" / name).stat().st_size)
        with pytest.raises(BadBundleError, match=expected) as caught:
            edgephi.runtime.load(copy)
        assert "\n" not in caught.value.message

    @pytest.mark.parametrize(
        ("module", "expected"),
        [
            ("openvino", "this bundle runs on openvino-genai, which is not installed"),
            ("tokenizers", "this bundle runs on openvino-genai with tokenizers, not installed"),
        ],
    )
    def test_an_engine_that_is_not_installed(self, bundle: Path, module: str, expected: str) -> None:
        # A fresh Python: here the modules are loaded already.
        code = (
            f"import sys; sys.modules[{module!r}] = None\n"
            "import edgephi.runtime\nfrom edgephi.errors import NotSupportedError\n"
            "try:\n    edgephi.runtime.load(sys.argv[1])\n"
            "except NotSupportedError as error:\n"
            "    print(error.exit_code, error.message, error.hint, sep='|')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(bundle)], capture_output=True, text=True, check=True
        )
        code_, message, hint = done.stdout.strip().split("|")
        assert code_ == "3"
        assert message == expected
        assert installs(hint, "openvino")

    def test_no_gpu_no_npu(self, bundle: Path) -> None:
        openvino = adapter._import_engine()
        if any(device.startswith("GPU") for device in openvino.Core().available_devices):
            pytest.skip("this machine has a GPU that OpenVINO drives")
        with pytest.raises(NotSupportedError, match="on gpu: OpenVINO finds only CPU") as caught:
            edgephi.runtime.load(bundle, provider="gpu")
        assert "--provider cpu" in caught.value.hint
        with pytest.raises(NotSupportedError, match="on npu: edgephi does not drive NPUs yet"):
            edgephi.runtime.load(bundle, provider="npu")

    def test_nothing_is_told_to_anybody(self, bundle: Path) -> None:
        # `import openvino` alone loads its model converter, which sends a report over the network.
        code = (
            "import json, sys, socket\n"
            "def refuse(*_, **__): raise AssertionError('network')\n"
            "socket.socket.connect = refuse\n"
            "import edgephi.runtime\n"
            "text = edgephi.runtime.load(sys.argv[1]).generate('who are you?').text\n"
            "print(json.dumps([text, sorted(name for name, module in sys.modules.items() if module)]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(bundle)], capture_output=True, text=True, check=True
        )
        text, modules = json.loads(done.stdout)
        assert "demo" in text
        assert done.stderr == ""
        assert not [name for name in modules if name.startswith(("openvino_telemetry", "openvino.tools"))]
        assert not {"torch", "transformers", "openvino_genai", "edgephi.export"} & set(modules)

    def test_the_converter_can_be_had_afterwards(self) -> None:
        adapter._import_engine()
        assert "openvino.tools.ovc" not in sys.modules or sys.modules["openvino.tools.ovc"] is not None
