"""Building through the command line, and checkpoints that take long enough to be interrupted."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from edgephi.cli.main import main
from tests.cli.conftest import MAIN, edgephi
from tests.tiny_checkpoint import write_tiny_checkpoint

__all__ = ["edgephi"]

Here = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Here:
    """Call `edgephi` in this process: the same answer as from a shell, without the time to start one."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        said = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess([*map(str, arguments)], code, said.out, said.err)

    return call


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of one layer, to be read only."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny-phi", layers=1, hidden=128, ffn=128)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount an empty disk of a size such as "20m"."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        disk = tmp_path / f"disk-{len(mounted)}"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as cause:
            pytest.skip(f"a small disk cannot be mounted here: {cause}")
        mounted.append(disk)
        return disk

    yield mount
    for disk in mounted:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def fill(disk: Path) -> Path:
    """Write a file that leaves no room on a small disk."""
    file = disk / "filler"
    with file.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    filler.write(bytes(size))
    return file


@contextlib.contextmanager
def building(*arguments: object, command: Sequence[str] = ("build",)) -> Iterator[subprocess.Popen[str]]:
    """`edgephi build`, or another command, as a process of its own, ended whatever happens."""
    # A background job of a shell ignores Ctrl-C; this one must not.
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{MAIN}"
    words = [sys.executable, "-c", code, *command, *map(str, arguments)]
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(happened: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait for something that the process is about to do."""
    for _ in range(6000):
        if happened():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    raise AssertionError("it did not happen")


def grown(destination: Path) -> bool:
    """Whether weights of an unfinished bundle are on the disk."""
    data = destination.with_name(f".{destination.name}.partial") / "model/model.onnx.data"
    return data.exists() and data.stat().st_size > 1_000_000


def verifying(destination: Path) -> bool:
    """Whether a build has come to ask the engine."""
    return any(destination.with_name(f".{destination.name}.partial").glob("edgephi-verify-*"))


def names(folder: Path) -> set[str]:
    """All that lies in a folder, hidden files included."""
    return {path.name for path in folder.iterdir()}
