"""Limits of schemas in the Python API: their process, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgephi.bundle.manifest import read_manifest
from edgephi.errors import BadInputError
from edgephi.processes.limited_process import LimitedProcess, LimitReachedError
from edgephi.runtime.text.constraint import ConstraintCompiler
from edgephi.runtime.text.rules import Rules

BOMB = json.dumps({"allOf": [{"type": "string", "pattern": f".*a{i}.*"} for i in range(30)]})
MANY_STATES = json.dumps({"type": "string", "pattern": "^(.*a.{30})$"})
INTEGER = Rules("json_schema", '{"type": "integer"}')
PATIENCE = 60.0

ASK = """
import resource, sys, edgephi.runtime
from edgephi.errors import BadInputError
from edgephi.runtime.session import Options
session = edgephi.runtime.load(sys.argv[1])
print("asking", flush=True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    session.generate("hello", Options(json_schema=sys.argv[2]))
except BadInputError as error:
    print(error.message)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
print(session.generate("hello", Options(json_schema='{"const": 7}')).text)
"""


def compiler(bundle: Path) -> ConstraintCompiler:
    return ConstraintCompiler(bundle / "model/tokenizer.json", read_manifest(bundle).chat.stop_token_ids)


def asking(bundle: Path) -> subprocess.Popen[str]:
    """A process that asks for an answer of a schema that takes for ever."""
    process = subprocess.Popen(
        [sys.executable, "-c", ASK, bundle, BOMB],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "asking\n"
    return process


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until_it_compiles(pid: int) -> int:
    """Wait for the process that compiles; its id."""
    end = time.monotonic() + PATIENCE
    while True:
        for child in children(pid):
            if b"constraint_process" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
        assert time.monotonic() < end
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def test_a_schema_is_refused_within_limits_and_the_next_one_answered(demo_bundle: Path) -> None:
    process = asking(demo_bundle)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    message, megabytes, answer = out.splitlines()
    assert message.startswith("expected a JSON schema that takes at most ")
    assert int(megabytes) < 100
    assert answer == "7"


def test_ctrl_c_ends_what_is_compiled(demo_bundle: Path) -> None:
    process = asking(demo_bundle)
    child = until_it_compiles(process.pid)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert time.monotonic() - start < 3.0
    assert is_gone(child)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
def test_a_killed_parent_ends_it_too(demo_bundle: Path) -> None:
    process = asking(demo_bundle)
    child = until_it_compiles(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    end = time.monotonic() + PATIENCE
    while not is_gone(child):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_process_that_ended_is_started_again(demo_bundle: Path) -> None:
    held = compiler(demo_bundle)
    constraint = held.compile(INTEGER)
    held.kill()
    with pytest.raises(BadInputError, match="expected a JSON schema that takes at most"):
        constraint.take(0)
    assert not held.compile(INTEGER).is_finished


def test_answers_at_the_same_time_do_not_mix(demo_bundle: Path) -> None:
    held = compiler(demo_bundle)
    logits = np.zeros(768, np.float32)
    numbers, texts = held.compile(INTEGER), held.compile(Rules("json_schema", '{"type": "string"}'))
    first = numbers.masked(logits)
    texts.take(int(texts.masked(logits).argmax()))
    assert (numbers.masked(logits) == first).all()
    del texts
    numbers.take(int(first.argmax()))
    assert np.isfinite(numbers.masked(logits)).any()


def test_many_states_while_it_is_written_stay_within_the_limits(demo_bundle: Path) -> None:
    held = compiler(demo_bundle)
    constraint, random = held.compile(Rules("json_schema", MANY_STATES)), np.random.default_rng(1)
    start = time.monotonic()
    try:
        for _ in range(500):
            constraint.take(int(constraint.masked(random.normal(size=768).astype(np.float32)).argmax()))
            if constraint.is_finished:
                break
    except BadInputError as error:
        assert len(error.message.splitlines()) == 1
    assert time.monotonic() - start < PATIENCE


def test_memory_is_watched_where_a_process_may_not_limit_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    process = LimitedProcess("tests.runtime.engines.greedy_process", memory_bytes=100 << 20)
    assert process.ask(b"50", PATIENCE) == b"50"
    with pytest.raises(LimitReachedError, match="100 MB of memory"):
        process.ask(b"4000", PATIENCE)
    assert is_gone(process.pid)
