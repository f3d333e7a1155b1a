"""In a control group with too little memory, the runner refuses: the kernel never has to kill it."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgephi.bundle.manifest import MANIFEST_NAME, encode_manifest, read_manifest
from tests.machine.control_group import CannotLimitError, ControlGroup, limited_memory

EDGEPHI = [sys.executable, "-c", "from edgephi.cli.main import main; main()"]
PROMPT = "turn on the kitchen light"
# Less than the bundle asks for at its full context, and more than for a short one.
LIMIT = 300 << 20
NEEDED_BYTES, NEEDED_BYTES_PER_TOKEN = 341_000_000, 19_456
FILE_BYTES = 240 << 20


@pytest.fixture(autouse=True)
def _engine() -> None:
    pytest.importorskip("onnxruntime_genai")


@pytest.fixture(scope="module")
def large(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo as a bundle that asks for more memory, and a larger share of it for its context."""
    folder = shutil.copytree(demo_bundle, tmp_path_factory.mktemp("large") / "bundle")
    manifest = read_manifest(folder)
    requires = dataclasses.replace(
        manifest.requires, memory_bytes=NEEDED_BYTES, memory_per_token_bytes=NEEDED_BYTES_PER_TOKEN
    )
    asking = dataclasses.replace(manifest, requires=requires)
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(asking))
    return folder


@pytest.fixture
def group() -> Iterator[ControlGroup]:
    try:
        with limited_memory(LIMIT) as made:
            yield made
    except CannotLimitError as cause:
        pytest.skip(str(cause))


def test_run_refuses_a_context_that_does_not_fit(large: Path, group: ControlGroup) -> None:
    full = read_manifest(large).limits.context
    done = group.run([*EDGEPHI, "run", large, PROMPT, "--context", full])
    assert (done.returncode, done.stdout) == (3, "")
    error, hint = done.stderr.splitlines()
    assert re.fullmatch(r"error: .*: a context of 4096 tokens needs 0\.34 GB .*, 0\.[23]\d GB are .*", error)
    fitting = re.fullmatch(r"hint: --context (\d+) fits", hint)
    assert fitting is not None
    assert group.kills == 0

    # And what the hint says is true.
    done = group.run([*EDGEPHI, "run", large, PROMPT, "--context", fitting[1]])
    assert done.returncode == 0, done.stderr
    assert "kitchen" in done.stdout
    assert group.kills == 0


def test_run_serves_what_fits_and_says_so(large: Path, group: ControlGroup) -> None:
    done = group.run([*EDGEPHI, "run", large, PROMPT])
    assert done.returncode == 0, done.stderr
    warning = done.stderr.splitlines()[0]
    assert re.fullmatch(r"warning: .*, 0\.[23]\d GB are available: it serves \d+ tokens", warning)
    assert group.kills == 0


def test_serve_refuses_a_context_that_does_not_fit(large: Path, group: ControlGroup) -> None:
    pytest.importorskip("starlette")
    full = read_manifest(large).limits.context
    done = group.run([*EDGEPHI, "serve", large, "--port", 0, "--context", full])
    assert (done.returncode, done.stdout) == (3, "")
    assert "error: " in done.stderr
    assert "a context of 4096 tokens needs 0.34 GB of memory" in done.stderr
    assert "Traceback" not in done.stderr
    assert group.kills == 0


def test_files_that_were_read_before_are_no_reason_to_refuse(
    large: Path, group: ControlGroup, tmp_path: Path
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

    done = group.run([*EDGEPHI, "run", large, PROMPT, "--context", 512])
    assert done.returncode == 0, done.stderr
    assert group.kills == 0
