"""In a control group with too little memory, the runner refuses: the kernel never has to kill it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgephi.manifest import read_manifest
from tests.runtime.control_group import CannotLimitError, ControlGroup, limited_memory

EDGEPHI = [sys.executable, "-c", "from edgephi.cli.main import main; main()"]
PROMPT = "turn on the kitchen light"
# Less than the demo asks for at its full context, which is 0.34 GB, and more than for a short one.
LIMIT = 300 << 20
FILE_BYTES = 240 << 20


@pytest.fixture(autouse=True)
def _engine() -> None:
    pytest.importorskip("onnxruntime_genai")


@pytest.fixture
def group() -> Iterator[ControlGroup]:
    try:
        with limited_memory(LIMIT) as made:
            yield made
    except CannotLimitError as cause:
        pytest.skip(str(cause))


def test_run_refuses_a_context_that_does_not_fit(demo_bundle: Path, group: ControlGroup) -> None:
    full = read_manifest(demo_bundle).limits.context
    done = group.run([*EDGEPHI, "run", demo_bundle, PROMPT, "--context", full])
    assert (done.returncode, done.stdout) == (3, "")
    error, hint = done.stderr.splitlines()
    assert re.fullmatch(r"error: .*: a context of 4096 tokens needs 0\.34 GB .*, 0\.[23]\d GB are .*", error)
    fitting = re.fullmatch(r"hint: --context (\d+) fits", hint)
    assert fitting is not None
    assert group.kills == 0

    # And what the hint says is true.
    done = group.run([*EDGEPHI, "run", demo_bundle, PROMPT, "--context", fitting[1]])
    assert done.returncode == 0, done.stderr
    assert "kitchen" in done.stdout
    assert group.kills == 0


def test_run_serves_what_fits_and_says_so(demo_bundle: Path, group: ControlGroup) -> None:
    done = group.run([*EDGEPHI, "run", demo_bundle, PROMPT])
    assert done.returncode == 0, done.stderr
    warning = done.stderr.splitlines()[0]
    assert re.fullmatch(r"warning: .*, 0\.[23]\d GB are available: it serves \d+ tokens", warning)
    assert group.kills == 0


def test_serve_refuses_a_context_that_does_not_fit(demo_bundle: Path, group: ControlGroup) -> None:
    pytest.importorskip("starlette")
    full = read_manifest(demo_bundle).limits.context
    done = group.run([*EDGEPHI, "serve", demo_bundle, "--port", 0, "--context", full])
    assert (done.returncode, done.stdout) == (3, "")
    assert "error: " in done.stderr
    assert "a context of 4096 tokens needs 0.34 GB of memory" in done.stderr
    assert "Traceback" not in done.stderr
    assert group.kills == 0


def test_files_that_were_read_before_are_no_reason_to_refuse(
    demo_bundle: Path, group: ControlGroup, tmp_path: Path
) -> None:
    """As after a start of the service: what was read for it stays in the group, as cached files."""
    file = tmp_path / "weights"
    write_and_read = (
        "import os, pathlib, sys\n"
        "file, size = pathlib.Path(sys.argv[1]), int(sys.argv[2])\n"
        "with file.open('wb') as stream:\n"
        "    for _ in range(size >> 20):\n"
        "        stream.write(bytes(1 << 20))\n"
        "    os.fsync(stream.fileno())\n"
        "for _ in range(3):\n"
        "    with file.open('rb') as stream:\n"
        "        while stream.read(1 << 20): pass\n"
    )
    done = group.run([sys.executable, "-c", write_and_read, file, FILE_BYTES])
    assert done.returncode == 0, done.stderr
    statistics = (group.folder / "memory.stat").read_text()
    assert int(re.search(r"^active_file (\d+)$", statistics, re.MULTILINE)[1]) > FILE_BYTES // 2  # type: ignore[index]

    done = group.run([*EDGEPHI, "run", demo_bundle, PROMPT, "--context", 512])
    assert done.returncode == 0, done.stderr
    assert group.kills == 0
