"""A bundle really has to answer, in time and in its memory; else what ran before still runs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import sys
import time
from pathlib import Path

import pytest

from edgephi.bundle.manifest import Manifest, read_manifest
from edgephi.errors import ProbeFailedError
from edgephi.store.install import Outcome
from edgephi.store.preflight import InstallOptions
from edgephi.store.proving import probe
from edgephi.store.proving.memory_group import limited_memory
from edgephi.store.proving.probe import ProbeResult, prove
from edgephi.store.status import status
from tests.store.bundles import digest_of, remade
from tests.store.conftest import UNPROVEN, install

PROVEN = InstallOptions()
WEIGHTS = "model/model.onnx.data"


def proved(bundle: Path, manifest: Manifest, *, seconds: float | None = None) -> ProbeResult:
    return prove(bundle, manifest, interpreter=sys.executable, limit_seconds=seconds)


def with_probe(bundle: Path, **changes: object) -> Manifest:
    manifest = read_manifest(bundle)
    assert manifest.probe is not None
    return dataclasses.replace(manifest, probe=dataclasses.replace(manifest.probe, **changes))  # type: ignore[arg-type]


def test_the_answer_begins_as_it_did_when_the_bundle_was_built(first: Path) -> None:
    manifest = read_manifest(first)
    assert manifest.probe is not None
    assert manifest.probe.expected
    result = proved(first, manifest)
    assert result.text.startswith(manifest.probe.expected)
    assert result.tokens_per_second > 0
    assert 10e6 < result.memory_bytes < manifest.requires.memory_bytes


def test_another_answer_fails(first: Path) -> None:
    with pytest.raises(ProbeFailedError, match=r"begins 'No\.', found '"):
        proved(first, with_probe(first, expected="No."))


def test_a_slow_answer_fails(first: Path) -> None:
    with pytest.raises(ProbeFailedError, match=r"1000000000\.0 tokens/s or more, found"):
        proved(first, with_probe(first, minimum_tokens_per_second=1e9))


def test_an_answer_that_does_not_come_is_not_waited_for(first: Path) -> None:
    with pytest.raises(ProbeFailedError, match=r"gave no answer within 0\.1 s"):
        proved(first, read_manifest(first), seconds=0.1)


def test_more_memory_than_the_bundle_declares_ends_it(first: Path) -> None:
    manifest = read_manifest(first)
    requires = dataclasses.replace(manifest.requires, memory_bytes=1_000_000)
    with pytest.raises(ProbeFailedError, match="which the bundle declares, with a margin, found more"):
        proved(first, dataclasses.replace(manifest, requires=requires))


class TestMemory:
    """One that takes its memory at once, and too much of it."""

    @pytest.fixture
    def greedy(self, tmp_path: Path) -> str:
        """In place of a Python that runs bundles: one that takes 600 MB and waits."""
        program = tmp_path / "python"
        program.write_text(f"#!{sys.executable}\nimport time\ntaken = b'x' * (600 << 20)\ntime.sleep(10)\n")
        program.chmod(0o755)
        return str(program)

    @pytest.fixture
    def modest(self, first: Path) -> Manifest:
        """A manifest that declares 100 MB."""
        manifest = read_manifest(first)
        return dataclasses.replace(
            manifest, requires=dataclasses.replace(manifest.requires, memory_bytes=100_000_000)
        )

    def test_the_kernel_ends_it_where_a_group_can_be_made(
        self, first: Path, modest: Manifest, greedy: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with limited_memory(1 << 20) as group:
            if group is None:
                pytest.skip("no control group can be made here")
        assert not group.folder.exists()
        monkeypatch.setattr(probe, "_WATCH_SECONDS", 5.0)  # we look too late
        begin = time.monotonic()
        with pytest.raises(ProbeFailedError, match=r"at most 159 MB of memory, .* found more"):
            prove(first, modest, interpreter=greedy)
        assert time.monotonic() - begin < 4
        # Others of this name are of tests in other processes.
        assert not list(group.folder.parent.glob(f"edgephi-probe-{os.getpid()}-*"))

    def test_looking_at_it_ends_it_elsewhere(
        self, first: Path, modest: Manifest, greedy: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(probe, "limited_memory", lambda _size: contextlib.nullcontext())
        with pytest.raises(ProbeFailedError, match=r"at most 159 MB of memory, .* found more"):
            prove(first, modest, interpreter=greedy)


def test_a_bundle_that_says_nothing_about_answers_must_still_give_one(first: Path) -> None:
    manifest = dataclasses.replace(read_manifest(first), probe=None)
    assert proved(first, manifest).text


def test_the_prompt_may_look_like_an_option(first: Path) -> None:
    assert proved(first, with_probe(first, prompt="--help", expected="")).text


def test_the_kernel_would_end_the_probe_first(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores: list[str] = []
    offer = probe._offer_to_the_kernel

    def watched(pid: int) -> None:
        offer(pid)
        scores.append(Path(f"/proc/{pid}/oom_score_adj").read_text().strip())

    monkeypatch.setattr(probe, "_offer_to_the_kernel", watched)
    proved(first, read_manifest(first))
    assert scores == ["1000"]


class TestOtherVersions:
    """The edgephi of a box, or of a bundle's wheels, may be older than the store that asks it."""

    @pytest.fixture
    def older(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every Python that is started has an edgephi without the module that is asked first."""
        (tmp_path / "sitecustomize.py").write_text(
            "import sys\n"
            "class Older:\n"
            "    def find_spec(self, name, path, target=None):\n"
            "        if name == 'edgephi.runtime.proof.first_answer':\n"
            "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
            "sys.meta_path.insert(0, Older())\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    @pytest.mark.usefixtures("older")
    def test_an_older_one_is_asked_by_its_command_line(self, first: Path) -> None:
        manifest = read_manifest(first)
        assert manifest.probe is not None
        result = proved(first, manifest)
        assert result.text.startswith(manifest.probe.expected)
        assert result.tokens_per_second > 0
        assert 10e6 < result.memory_bytes < manifest.requires.memory_bytes

    @pytest.mark.usefixtures("older")
    def test_what_its_command_line_says_is_told(self, first: Path, tmp_path: Path) -> None:
        with pytest.raises(ProbeFailedError, match=r"its process ended with exit code 4: .*no such folder"):
            proved(tmp_path / "none", read_manifest(first))

    def test_both_give_the_same_answer(self, first: Path, request: pytest.FixtureRequest) -> None:
        manifest = with_probe(first, expected="")
        newer = proved(first, manifest)
        request.getfixturevalue("older")
        assert proved(first, manifest).text == newer.text

    def test_words_of_another_protocol_are_no_answer(self, first: Path, tmp_path: Path) -> None:
        program = tmp_path / "python"
        program.write_text('#!/bin/sh\necho "edgephi-answers/2"; echo "{}"\n')
        program.chmod(0o755)
        with pytest.raises(ProbeFailedError, match="its process gave no answer that can be read"):
            prove(first, read_manifest(first), interpreter=str(program))


def test_what_the_runner_failed_with_is_told(first: Path, tmp_path: Path) -> None:
    with pytest.raises(ProbeFailedError, match=f"probe of demo-cpu: {tmp_path}/none: expected a bundle"):
        proved(tmp_path / "none", read_manifest(first))


def test_a_runner_that_is_killed_is_told(first: Path, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    with pytest.raises(ProbeFailedError, match=r"killed by signal 9 \(SIGKILL\), most likely because memory"):
        prove(first, read_manifest(first), interpreter=str(program))


class TestInAStore:
    def test_a_proven_bundle_becomes_active(self, first: Path, tmp_path: Path) -> None:
        outcome = install(first, tmp_path, PROVEN)
        assert outcome.probe is not None
        assert status(tmp_path).generations[0].is_proven

    def test_garbage_leaves_what_ran_before(self, first: Path, tmp_path: Path) -> None:
        bad = self._garbage(first, tmp_path / "bad")
        store = tmp_path / "store"
        install(first, store, UNPROVEN)
        before = (store / "state.json").read_bytes()
        with pytest.raises(ProbeFailedError):
            install(bad, store, PROVEN)
        assert (store / "state.json").read_bytes() == before
        assert (store / "current").resolve().name == digest_of(first)
        assert [path.name for path in (store / "gens").iterdir()] == [digest_of(first)]

    def test_the_first_bundle_of_a_store_can_fail_too(self, first: Path, tmp_path: Path) -> None:
        with pytest.raises(ProbeFailedError):
            install(self._garbage(first, tmp_path / "bad"), tmp_path / "store", PROVEN)
        assert not (tmp_path / "store" / "current").exists()
        assert list((tmp_path / "store" / "gens").iterdir()) == []

    def test_one_for_another_machine_is_proven_when_it_is_flashed_there(
        self, first: Path, tmp_path: Path
    ) -> None:
        install(first, tmp_path, UNPROVEN)
        assert not status(tmp_path).generations[0].is_proven
        outcome: Outcome = install(first, tmp_path, PROVEN)
        assert (outcome.sent_bytes, outcome.probe is not None) == (0, True)
        assert status(tmp_path).generations[0].is_proven

    def test_one_that_is_proven_is_not_asked_again(self, first: Path, tmp_path: Path) -> None:
        install(first, tmp_path, PROVEN)
        assert install(first, tmp_path, PROVEN).probe is None

    @staticmethod
    def _garbage(bundle: Path, destination: Path) -> Path:
        """A bundle that hashes right, with random weights."""
        size = (bundle / WEIGHTS).stat().st_size
        return remade(bundle, destination, {WEIGHTS: random.Random(3).randbytes(size)}, sequence=9)
