"""The adapter of llama.cpp, on the demo's bundle."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgephi.build.build import build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.bundle.manifest import Requires, read_manifest
from edgephi.declared.recipe import read_recipe
from edgephi.declared.target import read_target
from edgephi.errors import BadBundleError, DoesNotFitError, NotSupportedError
from edgephi.runtime import load
from edgephi.runtime.adapter import Adapter, Engine, open_engine
from edgephi.runtime.engines.llama_cpp import adapter as llama_cpp
from edgephi.runtime.engines.llama_cpp import library as llama_library
from edgephi.runtime.engines.llama_cpp.adapter import LlamaEngine
from edgephi.runtime.engines.llama_cpp.library import ContextParameters, load_library
from edgephi.runtime.session import Options, Session
from edgephi.steps import silent
from tests.build.demo import build_demo
from tests.cli.conftest import Edgephi, edgephi, is_one_error
from tests.installs import installs
from tests.portable import portable
from tests.runtime.engines.cache_behaviour import (
    CacheBehaviour,
    LongRopeBehaviour,
    WindowBehaviour,
    greedy,
    open_longrope,
    open_windowed,
    taken_at_opening,
)
from tests.tiny_checkpoint import write_tiny_checkpoint

np = pytest.importorskip("numpy")
pytest.importorskip("xllamacpp")

__all__ = ["edgephi"]

ADAPTER: Adapter = llama_cpp

PROMPT = "turn on the kitchen light"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo, built and verified for the target `gguf` as a user would."""
    return build_demo("gguf", tmp_path_factory.mktemp("gguf") / "bundle").folder


@pytest.fixture(scope="module")
def session(bundle: Path) -> Session:
    return load(bundle)


@pytest.fixture(scope="module")
def engine(session: Session) -> LlamaEngine:
    assert isinstance(session.engine, LlamaEngine)
    return session.engine


@pytest.fixture
def _reloaded() -> Iterator[None]:
    """Have the library looked for again, before and after the test."""
    load_library.cache_clear()
    yield
    load_library.cache_clear()


def all_logits(engine: LlamaEngine, token_ids: list[int], *, step: int = 64) -> Any:
    return np.concatenate([*engine.logits(token_ids, step=step)])


class TestBundle:
    def test_the_certificate_says_what_was_run(self, bundle: Path) -> None:
        certificate = read_manifest(bundle).certificate
        assert certificate.engine.startswith("llama.cpp 20")
        assert certificate.provider == "cpu"
        assert "provider" not in certificate.note
        assert certificate.export_error is not None
        assert certificate.end_to_end is not None
        assert certificate.export_error.kl_mean < 1e-3
        assert certificate.end_to_end.top1 >= read_recipe("demo").gate.end_to_end_top1

    def test_from_the_command_line(self, edgephi: Edgephi, bundle: Path, tmp_path: Path) -> None:
        done = edgephi("build", "demo", "--target", "gguf", "--verify", "off", "-o", tmp_path / "again")
        assert done.returncode == 0
        for file in (bundle / "model").iterdir():
            assert (tmp_path / "again/model" / file.name).read_bytes() == file.read_bytes()
        done = edgephi("run", tmp_path / "again", PROMPT, "--json")
        document = json.loads(done.stdout)
        assert document["text"] == '{"action": "turn_on", "room": "kitchen", "device": "light"}'
        assert document["stop_reason"] == "stop"
        assert document["engine"]["name"] == "llama.cpp"
        assert document["provider"] == "cpu"

    def test_llama_cpp_prints_nothing(self, edgephi: Edgephi, bundle: Path) -> None:
        done = edgephi("run", bundle, PROMPT)
        assert done.stdout == '{"action": "turn_on", "room": "kitchen", "device": "light"}\n'
        (line,) = done.stderr.splitlines()
        assert line.startswith("llama.cpp 20")
        assert line.endswith(" on cpu")

    def test_it_opens_no_port_and_loads_no_numpy(self, bundle: Path) -> None:
        code = (
            "import psutil, sys, edgephi.runtime\n"
            f"session = edgephi.runtime.load({str(bundle)!r})\n"
            f"print(session.generate({PROMPT!r}).text)\n"
            "print(psutil.Process().net_connections())\n"
            "print(sorted({'numpy', 'torch', 'transformers', 'xllamacpp'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[1:] == ["[]", "[]"]

    @pytest.mark.slow
    def test_llama_cpps_own_server_gives_the_same_answer(self, session: Session, bundle: Path) -> None:
        """With its own loader, its own tokenizer and the chat template and stop tokens of the file."""
        code = (
            "import json, sys, xllamacpp\n"
            "parameters = xllamacpp.CommonParams()\n"
            f"parameters.model.path = {str(bundle / 'model/model.gguf')!r}\n"
            "parameters.n_ctx, parameters.n_parallel, parameters.port = 2048, 1, 0\n"
            "parameters.verbosity = -1\n"
            "server = xllamacpp.Server(parameters)\n"
            f"messages = [{{'role': 'user', 'content': {PROMPT!r}}}]\n"
            "request = {'messages': messages, 'max_tokens': 48, 'temperature': 0}\n"
            "print(json.dumps(server.handle_chat_completions(request)))\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        answer = json.loads(done.stdout.strip().splitlines()[-1])
        ours = session.generate(PROMPT, Options(max_tokens=48))
        # Its text begins with the space that the tokenizer puts before every text.
        assert answer["choices"][0]["message"]["content"] == f" {ours.text}" != " "
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"]["prompt_tokens"] == ours.prompt_tokens


class TestAnswers:
    def test_greedy_takes_the_most_likely_token(self, session: Session, engine: LlamaEngine) -> None:
        prompt = engine.encode(session.render(PROMPT))
        tokens = greedy(engine, prompt, 8)
        logits = all_logits(engine, prompt + tokens[:-1])[len(prompt) - 1 :]
        assert tokens == logits.argmax(axis=-1).tolist()

    def test_a_prompt_of_many_pieces(self, engine: LlamaEngine) -> None:
        token_ids = (engine.encode("the light in the hall ") * 100)[:300]
        assert greedy(engine, token_ids, 1) == [int(all_logits(engine, token_ids)[-1].argmax())]

    def test_a_prompt_of_one_token(self, engine: LlamaEngine) -> None:
        assert greedy(engine, [20], 1) == [int(all_logits(engine, [20])[-1].argmax())]

    def test_one_answer_after_another(self, session: Session) -> None:
        texts = [session.generate(prompt).text for prompt in (PROMPT, "stop the fan", PROMPT)]
        assert texts[0] == texts[2] != texts[1]

    def test_ctrl_c_stops_it(self, bundle: Path) -> None:
        code = (
            "import pathlib, sys\n"
            "from edgephi.bundle.manifest import read_manifest\n"
            "from edgephi.runtime.adapter import open_engine\n"
            f"bundle = pathlib.Path({str(bundle)!r})\n"
            "cache = open_engine(bundle, read_manifest(bundle)).open_cache(4096)\n"
            "try:\n"
            "    for done in cache.append([20, 21] * 2000):\n"
            "        print(done, flush=True)\n"
            "except KeyboardInterrupt:\n"
            "    sys.exit(42 if list(cache.tokens) == [20, 21] * (len(cache.tokens) // 2) else 43)\n"
        )
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(5):
                process.stdout.readline()
            process.send_signal(signal.SIGINT)
            begun = time.monotonic()
            _, problem = process.communicate(timeout=60)
            assert process.returncode == 42, problem
            assert time.monotonic() - begun < 10  # all of them take longer, and a busy machine stops late

    def test_logits_do_not_depend_on_the_step(self, engine: LlamaEngine) -> None:
        token_ids = engine.encode("turn on the kitchen light and the heating, please " * 4)
        whole = all_logits(engine, token_ids, step=1000)
        assert whole.dtype == np.float32
        assert len(whole) == len(token_ids)
        for step in (1, 7):
            stepped = list(engine.logits(token_ids, step=step))
            assert {len(block) for block in stepped[:-1]} == {step}
            # A single row takes another kernel, whose sums are in another order.
            np.testing.assert_allclose(np.concatenate(stepped), whole, atol=0.1 * whole.std())

    def test_each_block_of_logits_is_the_callers_own(self, engine: LlamaEngine) -> None:
        first, second = engine.logits([20, 21, 22, 23], step=2)
        np.testing.assert_array_equal(
            np.concatenate([first, second]), all_logits(engine, [20, 21, 22, 23], step=2)
        )


# What is computed in one call decides about the kernel, and int8 activations make much of another order.
ROUNDING = 0.2


class TestCache(CacheBehaviour):
    tolerance = ROUNDING
    takes_pieces_of = 64

    def test_its_memory_is_taken_when_it_is_opened(self, bundle: Path) -> None:
        ahead, opening, _ = taken_at_opening(bundle)
        assert ahead
        assert opening > 2304 * 1536 * 0.9


class TestLongRopeCache(LongRopeBehaviour):
    tolerance = ROUNDING

    @pytest.fixture(scope="class")
    @staticmethod
    def longrope(tmp_path_factory: pytest.TempPathFactory) -> Engine:
        return open_longrope("gguf", tmp_path_factory.mktemp("longrope"))


class TestWindowedCache(WindowBehaviour):
    tolerance = ROUNDING

    @pytest.fixture(scope="class")
    @staticmethod
    def windowed(tmp_path_factory: pytest.TempPathFactory) -> Engine:
        return open_windowed("gguf", tmp_path_factory.mktemp("window"))


class TestThreads:
    """What llama.cpp's threads do while they wait for each other, in the words of GNU's OpenMP."""

    @pytest.mark.parametrize(
        ("told", "expected"),
        [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "30000000000")],
        ids=["ours", "the user's number", "the user's policy"],
    )
    def test_they_sleep_soon_unless_the_user_wants_otherwise(
        self, bundle: Path, told: dict[str, str], expected: str
    ) -> None:
        inherited = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
        code = f"import edgephi.runtime; edgephi.runtime.load({str(bundle)!r})"
        environment = {**inherited, "OMP_DISPLAY_ENV": "VERBOSE", **told}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        if "GOMP_SPINCOUNT" not in done.stderr:
            pytest.skip("this wheel of llama.cpp brings another OpenMP than GNU's")
        assert re.findall(r"GOMP_SPINCOUNT = '(\w+)'", done.stderr) == [expected]


class TestContext:
    def test_no_more_is_allocated_than_was_asked_for(self, engine: LlamaEngine) -> None:
        # Rounded up to a multiple of 256; and little is kept past the demo's window of 2,047 tokens.
        for capacity, allocated in ((100, 256), (256, 256), (257, 512), (4096, 2304)):
            context = engine.make_context(capacity, long=False)
            assert load_library().llama_n_ctx(context.pointer) == allocated

    def test_a_text_past_the_context_is_refused(self, bundle: Path) -> None:
        engine = load(bundle, context=10).engine
        with pytest.raises(DoesNotFitError, match="expected at most 10 tokens, found 11"):
            engine.open_cache(11)
        with pytest.raises(DoesNotFitError, match="expected at most 10 tokens, found 11"):
            next(iter(engine.logits(list(range(20, 31)), step=4)))

    def test_a_cache_that_does_not_fit(self, bundle: Path) -> None:
        code = (
            "import pathlib, resource, psutil\n"
            "from edgephi.errors import DoesNotFitError\n"
            "from edgephi.bundle.manifest import read_manifest\n"
            "from edgephi.runtime.adapter import open_engine\n"
            f"bundle = pathlib.Path({str(bundle)!r})\n"
            "engine = open_engine(bundle, read_manifest(bundle), context=1 << 18)\n"
            "engine._window = 0\n"
            "room = psutil.Process().memory_info().vms + 100_000_000\n"
            "resource.setrlimit(resource.RLIMIT_AS, (room, room))\n"
            "try:\n"
            "    engine.open_cache(1 << 18)  # 400 MB\n"
            "except DoesNotFitError as error:\n"
            "    print(error.message)\n"
            "cache = engine.open_cache(64)\n"
            "print(*cache.append([20, 21]))\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        message, count = done.stdout.splitlines()
        assert message.startswith("expected a KV cache for 262144 tokens: not enough memory: ")
        assert count == "2"
        assert done.stderr == ""

    def test_memory_holds_the_weights_once(self, tmp_path: Path) -> None:
        """Though llama.cpp repacks them, and maps the file unless it is told not to."""
        tiny = write_tiny_checkpoint(tmp_path / "tiny", vocab=4096, hidden=512, heads=8, ffn=2048, layers=8)
        recipe = dataclasses.replace(read_recipe("default"), quant=portable(method="rtn", group_size=32))
        request = BuildRequest(
            str(tiny), read_target("gguf"), recipe, tmp_path / "bundle", verify="off", context=256
        )
        build(request, find_checkpoint(str(tiny), recipe, None, progress=False), silent)
        weights = (tmp_path / "bundle/model/model.gguf").stat().st_size
        code = (
            "import psutil, edgephi.runtime, tokenizers, jinja2\n"
            "from edgephi.runtime.engines.llama_cpp.library import load_library\n"
            "load_library()\n"
            "before = psutil.Process().memory_info().rss\n"
            f"session = edgephi.runtime.load({str(tmp_path / 'bundle')!r})\n"
            "session.generate('light')\n"
            "print(psutil.Process().memory_info().rss - before)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert weights > 18_000_000
        assert int(done.stdout) < 1.8 * weights  # 2.3, were the file mapped as well


class TestRefusals:
    def test_another_version(self, bundle: Path) -> None:
        manifest = dataclasses.replace(
            read_manifest(bundle), requires=Requires(1, 1, {"llama.cpp": ">=2099,<2100"})
        )
        with pytest.raises(NotSupportedError, match=r"needs xllamacpp >=2099,<2100, found 20") as caught:
            open_engine(bundle, manifest)
        assert "pip install 'xllamacpp>=2099,<2100'" in caught.value.hint

    @pytest.mark.usefixtures("_reloaded")
    def test_it_is_not_installed(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("edgephi.runtime.engines.llama_cpp.library.util.find_spec", lambda _name: None)
        monkeypatch.setattr(llama_cpp, "installed_version", lambda _facts: None)
        with pytest.raises(NotSupportedError, match="not installed") as caught:
            open_engine(bundle, read_manifest(bundle))
        assert installs(caught.value.hint, "gguf")
        assert caught.value.exit_code == 3

    @pytest.mark.parametrize(
        ("content", "message"), [(b"", "cannot be loaded"), (None, "no function llama_")]
    )
    def test_another_library(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        content: bytes | None,
        message: str,
    ) -> None:
        library = tmp_path / "xllamacpp/xllamacpp.abi3.so"
        library.parent.mkdir()
        (library.parent / "__init__.py").touch()
        if content is None:
            shutil.copyfile(_path_of("libm.so.6"), library)
        else:
            library.write_bytes(content)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "xllamacpp", raising=False)
        problem = llama_cpp.provider_problem("cpu")
        assert problem is not None
        assert message in problem

    @pytest.mark.usefixtures("_reloaded")
    def test_a_structure_that_has_moved(self, monkeypatch: pytest.MonkeyPatch) -> None:
        moved = [("before", ctypes.c_uint32), *ContextParameters._fields_]

        class Moved(ctypes.Structure):
            _fields_ = moved

        functions = {**llama_library._FUNCTIONS, "llama_context_default_params": (Moved,)}
        monkeypatch.setattr(llama_library, "_FUNCTIONS", functions)
        with pytest.raises(NotSupportedError, match=r"found other defaults of a context: \(2048, 512, 1, "):
            load_library()

    def test_a_provider_that_the_wheel_lacks(self, edgephi: Edgephi, bundle: Path) -> None:
        if llama_cpp.provider_problem("rocm") is None:
            pytest.skip("this machine has ROCm")
        done = edgephi("run", bundle, PROMPT, "--provider", "rocm")
        assert is_one_error(done, 3)
        assert "llama.cpp on rocm: xllamacpp 20" in done.stderr
        assert "finds only" in done.stderr

    def test_a_provider_that_nobody_has(self, bundle: Path) -> None:
        with pytest.raises(
            NotSupportedError, match="expected one of the providers cpu, cuda, metal, vulkan, rocm"
        ):
            open_engine(bundle, read_manifest(bundle), provider="npu")

    @pytest.mark.parametrize("damage", ["garbage", "cut", "tokenizer"])
    def test_a_model_that_cannot_be_read(
        self, bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: str
    ) -> None:
        broken = tmp_path / "bundle"
        shutil.copytree(bundle, broken)
        file = broken / "model" / ("tokenizer.json" if damage == "tokenizer" else "model.gguf")
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2] if damage == "cut" else b"{" * len(data))
        manifest = read_manifest(broken)
        with pytest.raises(BadBundleError, match=r"expected a (model that llama\.cpp|tokenizer)"):
            open_engine(broken, manifest)
        assert capfd.readouterr() == ("", "")


def _path_of(name: str) -> str:
    """The file of a library that this process has loaded."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(f"/{name}"):
            return line.split(maxsplit=5)[-1]
    pytest.skip(f"no {name} here")
