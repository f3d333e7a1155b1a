"""A file that a command is asked for is there whole, or what was there before still is."""

import ast
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgephi.bundle.quantisation import QUANTISATION_NAME, encode_quantisation
from edgephi.cli import output_file
from edgephi.cli.output_file import write_output
from edgephi.errors import BadInputError, DoesNotFitError
from tests.build.conftest import Here, here  # noqa: F401 - a fixture
from tests.bundle.tiny import FILES, write_tiny_bundle
from tests.cli.pages.quantised import quantised
from tests.house import modules

LONG = "page\n" * 2000


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Have the kernel refuse to let a file grow past `size` bytes: as on a full disk, it is cut off there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def writing(source: bytes) -> Iterator[int]:
    """The lines of a module in which a file is opened to write to it."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        modes = [each.value for each in given if isinstance(each, ast.Constant)]
        opened = name in ("open", "fdopen", "NamedTemporaryFile") and any(
            str(mode)[:1] in ("w", "x", "a") for mode in modes
        )
        if opened or name in ("write_text", "write_bytes"):
            yield node.lineno


class TestWhole:
    def test_a_new_file(self, tmp_path: Path) -> None:
        write_output(tmp_path / "a", "é\n")
        assert (tmp_path / "a").read_bytes() == "é\n".encode()
        (tmp_path / "usual").touch()
        assert (tmp_path / "a").stat().st_mode == (tmp_path / "usual").stat().st_mode
        assert names(tmp_path) == ["a", "usual"]

    def test_a_name_as_long_as_one_can_be(self, tmp_path: Path) -> None:
        write_output(tmp_path / ("a" * 255), LONG)
        assert names(tmp_path) == ["a" * 255]

    def test_another_text_keeps_the_mode(self, tmp_path: Path) -> None:
        file = tmp_path / "a"
        file.write_text("old")
        file.chmod(0o604)
        write_output(file, "new")
        assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("new", 0o604)
        write_output(file, "new", mode=0o644)
        assert stat.S_IMODE(file.stat().st_mode) == 0o644

    def test_a_link_stays_one(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "link").symlink_to("elsewhere/page")
        for text in ("one", "another"):
            write_output(tmp_path / "link", text)
            assert (tmp_path / "elsewhere" / "page").read_text() == text
            assert (tmp_path / "link").is_symlink()
        assert names(tmp_path / "elsewhere") == ["page"]

    def test_a_pipe_is_written_to_and_stays(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            write_output(pipe, "page")
            assert os.read(reader, 100) == b"page"
        finally:
            os.close(reader)
        assert pipe.is_fifo()


class TestNothingIsLost:
    def test_on_a_disk_that_fills_up(self, tmp_path: Path) -> None:
        file = tmp_path / "a"
        with files_of_at_most(100), pytest.raises(DoesNotFitError, match=str(file)):
            write_output(file, LONG)
        assert names(tmp_path) == []
        file.write_text("old")
        with files_of_at_most(100), pytest.raises(DoesNotFitError):
            write_output(file, LONG)
        assert (file.read_text(), names(tmp_path)) == ("old", ["a"])

    def test_when_it_is_interrupted(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("old")
        program = (
            "import os, pathlib, signal\n"
            "from edgephi.cli.output_file import write_output\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "os.fsync = lambda _descriptor: os.kill(os.getpid(), signal.SIGINT)\n"
            "try: write_output(pathlib.Path('a'), 'new' * 9999)\n"
            "except KeyboardInterrupt: print('interrupted')\n"
        )
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
        assert (done.stdout, done.stderr) == ("interrupted\n", "")
        assert ((tmp_path / "a").read_text(), names(tmp_path)) == ("old", ["a"])

    def test_in_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(BadInputError) as refused:
            write_output(tmp_path / "none" / "a", LONG)
        assert refused.value.message == f"{tmp_path / 'none' / 'a'}: No such file or directory"

    def test_a_file_that_may_not_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if os.geteuid() == 0:  # who may write to every file
            monkeypatch.setattr(os, "access", lambda path, _mode: bool(Path(path).stat().st_mode & 0o200))
        (tmp_path / "a").write_text("old")
        (tmp_path / "a").chmod(0o444)
        with pytest.raises(BadInputError, match="Permission denied"):
            write_output(tmp_path / "a", LONG)
        assert (tmp_path / "a").read_text() == "old"


class TestCommands:
    @pytest.mark.parametrize("words", [("inspect", "--html"), ("service", "-o")], ids=lambda words: words[0])
    def test_leave_what_was_there(self, here: Here, tmp_path: Path, words: tuple[str, str]) -> None:  # noqa: F811
        bundle, file = tmp_path / "b", tmp_path / "out" / "file"
        write_tiny_bundle(bundle, {**FILES, QUANTISATION_NAME: encode_quantisation(quantised())})
        file.parent.mkdir()
        file.write_text("old")
        with files_of_at_most(100):
            done = here(words[0], bundle, words[1], file)
        assert done.returncode == 3
        assert f"error: {file}: File too large" in done.stderr
        assert (file.read_text(), names(file.parent)) == ("old", ["file"])
        assert here(words[0], bundle, words[1], file).returncode == 0
        assert len(file.read_text()) > 100

    def test_none_writes_a_file_in_another_way(self) -> None:
        rooms = {name: path for name, path in modules().items() if name.startswith("edgephi.cli.")}
        del rooms[output_file.__name__]
        assert [f"{name}:{line}" for name, path in rooms.items() for line in writing(path.read_bytes())] == []

    def test_another_way_would_be_found(self) -> None:
        source = (
            b"page.write_text(text)\nfile.read_text()\npage.open('w')\nopen(page, mode='ab')\nfile.open('rb')"
        )
        assert list(writing(source)) == [1, 3, 4]
