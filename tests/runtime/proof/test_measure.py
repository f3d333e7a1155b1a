"""The bench of a real bundle in real processes, and how several runs become one set of numbers."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

import edgephi.runtime
from edgephi.bundle.manifest import read_manifest
from edgephi.errors import BadInputError, CannotServeError, DoesNotFitError
from edgephi.machine.measurement import BenchRequest, Measurement
from edgephi.runtime.proof.bench import bench
from edgephi.runtime.proof.measure import DEFAULT_PROMPT_LENGTHS, fitting_lengths, measure, peak_memory_bytes
from edgephi.runtime.session import Options
from edgephi.steps import silent

REQUEST = BenchRequest((16, 64), 24)


@pytest.fixture(scope="module")
def measurement(demo_bundle: Path) -> Measurement:
    return measure(demo_bundle, REQUEST)


class TestMeasure:
    def test_says_what_ran(self, measurement: Measurement, demo_bundle: Path) -> None:
        manifest = read_manifest(demo_bundle)
        assert (measurement.engine, measurement.provider) == (manifest.target.engine, "cpu")
        assert measurement.version[0].isdecimal()
        assert measurement.context == 64 + 24
        assert measurement.gpu_memory_bytes is None

    def test_every_prompt_length(self, measurement: Measurement) -> None:
        assert [speed.prompt_tokens for speed in measurement.speeds] == [16, 64]
        for speed in measurement.speeds:
            assert speed.generated_tokens == 24  # a stop token ends nothing
            assert speed.prefill_tokens_per_second == pytest.approx(
                speed.prompt_tokens / speed.first_token_seconds
            )

    def test_agrees_with_an_answer_that_was_timed_otherwise(
        self, measurement: Measurement, demo_bundle: Path
    ) -> None:
        session = edgephi.runtime.load(demo_bundle)
        prompt = "set a timer for ten minutes and turn on the kitchen light and lock the front door"
        session.generate(prompt)
        answer = session.generate(prompt, Options(max_tokens=24))
        decode = measurement.speeds[0].decode_tokens_per_second
        assert 1 / 20 < decode / answer.decode_tokens_per_second < 20

    def test_memory_is_that_of_one_process(self, measurement: Measurement) -> None:
        """More than Python alone takes, less than this process with all its libraries may."""
        assert 20e6 < measurement.peak_memory_bytes < 2e9
        peaks = [speed.peak_memory_bytes for speed in measurement.speeds]
        assert peaks == sorted(peaks)
        assert peaks[-1] <= measurement.peak_memory_bytes

    def test_progress_is_told_in_tokens(self, demo_bundle: Path) -> None:
        told: list[int] = []
        measure(demo_bundle, REQUEST, done=told.append)
        assert sum(told) == 16 + 24 + 64 + 24

    def test_a_context_that_is_asked_for(self, demo_bundle: Path) -> None:
        assert measure(demo_bundle, BenchRequest((4,), 2, context=1000)).context == 1000


def test_peak_memory_is_what_the_system_says() -> None:
    """A block that is gone again still counts; the starting process's own memory does not."""
    code = (
        "from edgephi.runtime.proof.measure import peak_memory_bytes\n"
        "before = peak_memory_bytes(); block = bytearray(300_000_000); del block\n"
        "print(before, peak_memory_bytes())"
    )
    ballast = bytearray(b"x") * 500_000_000
    before, after = map(int, subprocess.check_output([sys.executable, "-c", code]).split())
    del ballast
    assert before < 200e6
    assert 290e6 < after - before < 330e6
    assert peak_memory_bytes() >= psutil.Process().memory_info().rss


class TestProblems:
    def test_no_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(BadInputError, match="expected a bundle, found no such folder") as caught:
            measure(tmp_path / "none", REQUEST)
        assert "edgephi build" in caught.value.hint

    def test_a_damaged_bundle(self, demo_bundle: Path, tmp_path: Path) -> None:
        bundle = tmp_path / "bundle"
        shutil.copytree(demo_bundle, bundle)
        tokenizer = bundle / "model/tokenizer.json"
        tokenizer.write_bytes(b"{" * tokenizer.stat().st_size)
        with pytest.raises(BadInputError, match=r"tokenizer\.json: expected a tokenizer, found"):
            measure(bundle, REQUEST)

    def test_a_provider_that_there_is_not(self, demo_bundle: Path) -> None:
        with pytest.raises(CannotServeError, match="found 'abacus'"):
            measure(demo_bundle, BenchRequest((4,), 2, provider="abacus"))

    def test_more_than_the_context(self, demo_bundle: Path) -> None:
        with pytest.raises(CannotServeError, match="need a context of 5096, found 4096"):
            measure(demo_bundle, BenchRequest((5000,), 96))

    def test_an_engine_that_is_killed(
        self, demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "onnxruntime_genai.py").write_text("import os; os.kill(os.getpid(), 9)")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with pytest.raises(DoesNotFitError, match="killed by signal 9"):
            measure(demo_bundle, REQUEST)

    def test_a_bug_is_called_one(
        self, demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "onnxruntime_genai.py").write_text("raise KeyError('surprise')")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with pytest.raises(Exception, match=r"bug in edgephi: .*surprise"):
            measure(demo_bundle, REQUEST)

    def test_an_interrupted_bench_leaves_no_process(self, demo_bundle: Path) -> None:
        code = (
            "import signal, sys; from pathlib import Path\n"
            "from edgephi.machine.measurement import BenchRequest\n"
            "from edgephi.runtime.proof.measure import measure\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "while True: measure(Path(sys.argv[1]), BenchRequest((2000,), 96))"
        )
        with subprocess.Popen([sys.executable, "-c", code, demo_bundle], stderr=subprocess.PIPE) as process:
            children: list[psutil.Process] = []
            deadline = time.monotonic() + 60
            while not children and time.monotonic() < deadline:
                children = psutil.Process(process.pid).children()
            assert children
            os.kill(process.pid, signal.SIGINT)
            process.communicate(timeout=60)
        gone, alive = psutil.wait_procs(children, timeout=20)
        assert (len(gone), alive) == (len(children), [])


class TestBench:
    def test_runs_become_medians_and_extremes(self, demo_bundle: Path) -> None:
        steps: list[str] = []

        @contextlib.contextmanager
        def step(title: str, size: int) -> Iterator[Callable[[int], None]]:
            steps.append(title)
            assert size == 16 + 24 + 64 + 24
            yield lambda _tokens: None

        (first, second) = bench(
            [demo_bundle, demo_bundle], REQUEST, runs=3, bandwidth=lambda _provider: 1e9, step=step
        )
        assert steps == [f"run {run} of 3: demo-cpu" for run in (1, 1, 2, 2, 3, 3)]
        manifest = read_manifest(demo_bundle)
        for summary in (first, second):
            engines_files = [entry for entry in manifest.files if entry.path.startswith("model/")]
            assert summary.artifact_bytes == sum(entry.size for entry in engines_files)
            assert summary.bits_per_weight == manifest.quant.bits_per_weight
            assert [prompt.prompt_tokens for prompt in summary.prompts] == [16, 64]
            ranges = [summary.load_seconds]
            for prompt in summary.prompts:
                ranges += [prompt.first_token_seconds, prompt.prefill_tokens_per_second]
                ranges += [prompt.decode_tokens_per_second]
            assert all(0 < each.low <= each.median <= each.high for each in ranges)

    def test_the_limit_by_bandwidth(self, demo_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Bytes per second over those of a token: the artifact, and the cache in the middle of the answer."""
        request = BenchRequest((16,), 8)
        monkeypatch.setattr("edgephi.runtime.proof.bench.last_level_cache_bytes", lambda: 0)
        (summary,) = bench([demo_bundle], request, runs=1, bandwidth=lambda _: 1e9, step=silent)
        (prompt,) = summary.prompts
        per_token = read_manifest(demo_bundle).requires.memory_per_token_bytes
        cached = 16 + prompt.generated_tokens / 2
        assert prompt.decode_limit is not None
        assert prompt.decode_limit == pytest.approx(1e9 / (summary.artifact_bytes + per_token * cached))
        assert prompt.share_of_limit == pytest.approx(
            prompt.decode_tokens_per_second.median / prompt.decode_limit
        )
        (unknown,) = bench([demo_bundle], request, runs=1, bandwidth=lambda _: None, step=silent)
        assert unknown.prompts[0].decode_limit is unknown.prompts[0].share_of_limit is None

    def test_what_fits_into_the_cache_has_no_limit_by_memory(
        self, demo_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgephi.runtime.proof.bench.last_level_cache_bytes", lambda: 1 << 30)
        (summary,) = bench(
            [demo_bundle], BenchRequest((16,), 8), runs=1, bandwidth=lambda _: 1e9, step=silent
        )
        assert summary.prompts[0].decode_limit is None


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (4096, DEFAULT_PROMPT_LENGTHS),
        (544, (32, 128, 512)),
        (543, (32, 128)),
        (64, (32,)),
        (40, (8,)),
        (10, (1,)),
    ],
)
def test_default_lengths_leave_room_for_the_answer(context: int, expected: tuple[int, ...]) -> None:
    assert fitting_lengths(context, 32) == expected
