"""The adapter of ONNX Runtime GenAI, on the demo bundle."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import edgephi.runtime
from edgephi.bundle.manifest import Requires, read_manifest
from edgephi.engines.facts.packages import installed_version
from edgephi.engines.onnxruntime_genai import FACTS
from edgephi.errors import BadBundleError, NotSupportedError
from edgephi.machine import accelerators
from edgephi.runtime.adapter import Adapter, Engine, open_engine
from edgephi.runtime.engines import onnxruntime_genai as adapter
from edgephi.runtime.engines.onnxruntime_genai import GenaiEngine
from edgephi.runtime.session import Options, Session
from tests.build.demo import build_demo
from tests.runtime.engines.cache_behaviour import (
    ORIGINAL,
    CacheBehaviour,
    LongRopeBehaviour,
    Same,
    WindowBehaviour,
    greedy,
    grow,
    open_exact,
    open_longrope,
    open_windowed,
    some_ids,
    spread,
    taken_at_opening,
)
from tests.tiny_phi3small import TinySmall, write_tiny_phi3small
from tests.tiny_phimoe import write_tiny_phimoe

np = pytest.importorskip("numpy")
tokenizers = pytest.importorskip("tokenizers")
onnxruntime_genai = pytest.importorskip("onnxruntime_genai")

ADAPTER: Adapter = adapter

PROMPTS = [
    "turn on the kitchen light",
    "  two spaces, a line\n\n and a tab\t.",
    "ünïcödé — 你好世界 العربية",
    "😀 👩\u200d👩\u200d👧",
    "<|user|>\nspecial<|end|>\n<|assistant|>\n  words",
    "before\0after",
    "a'se and \u2581hello",  # of the engine's own tokenizer these have other tokens
]


@pytest.fixture(scope="module")
def session(demo_bundle: Path) -> Session:
    return edgephi.runtime.load(demo_bundle)


@pytest.fixture(scope="module")
def engine(session: Session) -> GenaiEngine:
    assert isinstance(session.engine, GenaiEngine)
    return session.engine


@pytest.mark.parametrize("prompt", PROMPTS)
def test_encodes_as_the_tokenizer_file_says(session: Session, demo_bundle: Path, prompt: str) -> None:
    oracle = tokenizers.Tokenizer.from_file(str(demo_bundle / "model/tokenizer.json"))
    rendered = session.render(prompt, "be brief")
    assert session.engine.encode(rendered) == oracle.encode(rendered, add_special_tokens=False).ids


def test_renders_as_jinja_does(session: Session) -> None:
    assert session.render("hi\n<é>", "sys") == (
        "<|system|>\nsys<|end|>\n<|user|>\nhi\n<é><|end|>\n<|assistant|>\n"
    )


def test_the_pieces_of_an_answer_are_the_answer(session: Session) -> None:
    answer = session.stream("turn on the kitchen light", Options(max_tokens=24))
    pieces = list(answer)
    assert "".join(pieces) == answer.generation.text != ""
    assert not answer.generation.text.startswith(" ")
    assert (
        answer.generation.text == session.generate("turn on the kitchen light", Options(max_tokens=24)).text
    )


def test_logits_do_not_depend_on_the_step(engine: GenaiEngine) -> None:
    token_ids = engine.encode("turn on the kitchen light and the heating, please " * 4)
    whole = engine.logits_after(token_ids)
    assert whole.shape[0] == len(token_ids)
    for step in (1, 7):
        stepped = np.concatenate(list(engine.logits(token_ids, step=step)))
        # A single row takes another kernel, whose int8 activations round differently.
        np.testing.assert_allclose(stepped, whole, atol=0.1 * whole.std())


def test_greedy_takes_the_most_likely_token(session: Session, engine: GenaiEngine) -> None:
    prompt = engine.encode(session.render("turn on the kitchen light"))
    assert greedy(engine, prompt, 1) == [int(engine.logits_after(prompt)[-1].argmax())]


def test_a_prompt_of_many_pieces(session: Session, engine: GenaiEngine) -> None:
    context = session.manifest.limits.context
    token_ids = (engine.encode("the light in the hall ") * context)[: context - 1]
    assert greedy(engine, token_ids, 1) == [int(engine.logits_after(token_ids)[-1].argmax())]


# A single row takes another kernel, whose int8 activations round differently.
ROUNDING = 0.1


class TestCache(CacheBehaviour):
    tolerance = ROUNDING
    takes_pieces_of = 32

    def test_its_memory_is_taken_when_it_is_opened(self, demo_bundle: Path) -> None:
        ahead, opening, _ = taken_at_opening(demo_bundle)
        assert ahead
        assert opening > 4096 * 3072 * 0.9


@pytest.fixture(scope="class")
def any_switch() -> Iterator[None]:
    """The engine's own loop changes LongRoPE's factors at one length. Ours finds any in the manifest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgephi.export.onnx.exporter.context_limit", lambda _architecture: None)
        yield


def check_pieces(longrope: Engine, same: Same) -> None:
    assert longrope.told_factors
    cache = longrope.open_cache(200)
    assert grow(cache, some_ids(150))[0] == 32 < ORIGINAL
    same(cache)


@pytest.mark.usefixtures("any_switch")
class TestLongRopeCache(LongRopeBehaviour):
    @pytest.fixture(scope="class")
    @staticmethod
    def longrope(tmp_path_factory: pytest.TempPathFactory) -> Engine:
        return open_longrope("cpu", tmp_path_factory.mktemp("longrope"))


@pytest.mark.usefixtures("any_switch")
class TestLongRopeCacheOfExperts(LongRopeBehaviour):
    @pytest.fixture(scope="class")
    @staticmethod
    def longrope(tmp_path_factory: pytest.TempPathFactory) -> Engine:
        folder = tmp_path_factory.mktemp("experts")
        tiny = write_tiny_phimoe(folder / "tiny", original_context=ORIGINAL, context=1024)
        return open_exact("cpu", tiny, folder)

    def test_a_long_prompt_still_comes_in_pieces(self, longrope: Engine, same: Same) -> None:
        """For all that is computed of 4,097 tokens with 16 experts takes a gigabyte."""
        check_pieces(longrope, same)


@pytest.mark.usefixtures("any_switch")
class TestLongRopeCacheOfSparseAttention(LongRopeBehaviour):
    """Past 32 tokens not every token sees all before it; past ORIGINAL the factors are the long ones."""

    @pytest.fixture(scope="class")
    @staticmethod
    def longrope(tmp_path_factory: pytest.TempPathFactory) -> Engine:
        folder = tmp_path_factory.mktemp("sparse")
        sizes = TinySmall(block=16, local_blocks=2, stride=4, context=1024)
        tiny = write_tiny_phi3small(folder / "tiny", sizes, longrope=True, original_context=ORIGINAL)
        return open_exact("cpu", tiny, folder)

    def test_a_long_prompt_still_comes_in_pieces(self, longrope: Engine, same: Same) -> None:
        """For the scores of one piece past 8,192 tokens would take more memory than its weights."""
        check_pieces(longrope, same)

    def test_each_piece_of_a_scored_text_has_the_factors_of_the_whole(self, longrope: Engine) -> None:
        ids = some_ids(ORIGINAL + 60)
        whole, pieces = (np.concatenate(list(longrope.logits(ids, step=step))) for step in (len(ids), 16))
        np.testing.assert_allclose(pieces, whole, rtol=1e-3, atol=1e-3 * spread(whole))


class TestWindowedCache(WindowBehaviour):
    @pytest.fixture(scope="class")
    @staticmethod
    def windowed(tmp_path_factory: pytest.TempPathFactory) -> Engine:
        return open_windowed("cpu", tmp_path_factory.mktemp("window"))


def test_another_engine_version(demo_bundle: Path) -> None:
    manifest = read_manifest(demo_bundle)
    object.__setattr__(manifest, "requires", Requires(1, 1, {"onnxruntime-genai": ">=99,<100"}))
    with pytest.raises(NotSupportedError, match=r"needs onnxruntime-genai >=99,<100, found \d"):
        open_engine(demo_bundle, manifest)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.onnx", "model.onnx: expected an ONNX graph"),
        ("genai_config.json", "genai_config.json: expected a configuration in JSON"),
        ("tokenizer.json", "tokenizer.json: expected a tokenizer"),
    ],
)
def test_a_model_that_cannot_be_read(demo_bundle: Path, tmp_path: Path, name: str, expected: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(demo_bundle, bundle)
    (bundle / "model" / name).write_bytes(b"{" * (bundle / "model" / name).stat().st_size)
    with pytest.raises(BadBundleError, match=expected):
        edgephi.runtime.load(bundle)


class TestCuda:
    """A bundle for CUDA, on a machine that may have none."""

    without_cuda = pytest.mark.skipif(onnxruntime_genai.is_cuda_available(), reason="this engine has CUDA")

    def test_it_runs_on_the_cpu_where_that_is_asked_for(self, cuda_bundle: Path) -> None:
        session = edgephi.runtime.load(cuda_bundle, provider="cpu")
        assert session.engine.provider == "cpu"
        assert session.engine._model.device_type.lower() == "cpu"  # type: ignore[attr-defined]
        generation = session.generate("turn on the kitchen light")
        assert generation.text == '{"action": "turn_on", "room": "kitchen", "device": "light"}'

    def test_its_logits_come_as_float32(self, cuda_bundle: Path) -> None:
        engine = edgephi.runtime.load(cuda_bundle, provider="cpu").engine
        (block,) = engine.logits([5, 6, 7], step=3)
        assert block.dtype == np.float32

    @without_cuda
    def test_it_never_falls_back_to_the_cpu(self, cuda_bundle: Path) -> None:
        with pytest.raises(NotSupportedError, match=r"on cuda: the installed .* without CUDA") as caught:
            edgephi.runtime.load(cuda_bundle)
        assert "--provider cpu" in caught.value.hint
        assert "extra cuda in place of cpu" in caught.value.message

    @without_cuda
    def test_nor_does_a_bundle_for_the_cpu_that_is_asked_to_run_on_cuda(self, demo_bundle: Path) -> None:
        with pytest.raises(NotSupportedError, match="on cuda"):
            edgephi.runtime.load(demo_bundle, provider="cuda")

    def test_an_engine_with_cuda_needs_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnxruntime_genai, "is_cuda_available", lambda: True)
        found: tuple[accelerators.Accelerator, ...] = ()
        monkeypatch.setattr(accelerators, "find_accelerators", lambda: found)
        assert adapter.provider_problem("cuda") == "this machine has no NVIDIA GPU"
        found = (accelerators.Accelerator("gpu", "Intel", "Intel GPU"),)
        assert adapter.provider_problem("cuda") == "this machine has no NVIDIA GPU"
        found = (accelerators.Accelerator("gpu", "NVIDIA", "H200", problem="its driver is too old"),)
        assert adapter.provider_problem("cuda") == "its driver is too old"
        found += (accelerators.Accelerator("gpu", "NVIDIA", "H200"),)
        assert adapter.provider_problem("cuda") is None
        assert adapter.provider_problem("cpu") is None

    def test_the_hint_names_its_package(self, cuda_bundle: Path) -> None:
        manifest = read_manifest(cuda_bundle)
        object.__setattr__(manifest, "requires", Requires(1, 1, {"onnxruntime-genai": ">=99,<100"}))
        with pytest.raises(NotSupportedError) as caught:
            adapter.open_engine(cuda_bundle, manifest, context=8, provider="cuda")
        assert "pip install 'onnxruntime-genai-cuda>=99,<100'" in caught.value.hint

    @pytest.mark.parametrize("package", ["onnxruntime-genai", "onnxruntime-genai-cuda"])
    def test_either_package_is_the_engine(self, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
        def version(name: str) -> str:
            if name != package:
                raise metadata.PackageNotFoundError(name)
            return "0.18.0"

        monkeypatch.setattr(metadata, "version", version)
        assert installed_version(FACTS) == "0.18.0"

    def test_each_provider_has_its_extra(self) -> None:
        assert {name: provider.extra for name, provider in FACTS.providers.items()} == {
            "cpu": "cpu",
            "cuda": "cuda",
        }


@pytest.fixture(scope="module")
def cuda_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo, built for the target `cuda`."""
    return build_demo("cuda", tmp_path_factory.mktemp("cuda") / "bundle", verify="off").folder
