"""Texts in files that a command line names: each option reads them alike."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from edgephi.cli.text_file import read_text
from edgephi.errors import BadInputError
from tests.cli.conftest import Edgephi, is_one_error

OPTIONS = {
    "run --schema": ("run", "--schema", ""),
    "run --grammar": ("run", "--grammar", ""),
    "run --system": ("run", "--system", "@"),
    "chat --system": ("chat", "--system", "@"),
    "chat --tools": ("chat", "--tools", ""),
}


def test_a_text_without_its_mark(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes("\ufeffKüche\n".encode())
    assert read_text(file) == "Küche\n"


def test_a_pipe_as_a_shell_gives_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("{}",))
    writer.start()
    assert read_text(pipe) == "{}"
    writer.join()


def test_so_much_and_not_more(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("a" * 10)
    assert read_text(file, most_bytes=10) == "a" * 10
    with pytest.raises(BadInputError, match="expected at most 9 bytes of text, found more"):
        read_text(file, most_bytes=9)


@pytest.mark.parametrize("name", OPTIONS)
def test_what_never_ends_is_not_read_to_its_end(edgephi: Edgephi, demo_bundle: Path, name: str) -> None:
    command, option, mark = OPTIONS[name]
    prompt = ["hi"] if command == "run" else []
    done = edgephi(command, demo_bundle, *prompt, option, f"{mark}/dev/zero", input="")
    assert is_one_error(done, 4)
    assert "/dev/zero: expected at most" in done.stderr


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_no_file_or_no_text(edgephi: Edgephi, demo_bundle: Path, tmp_path: Path, name: str) -> None:
    command, option, mark = OPTIONS[name]
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for file in (tmp_path / "none", tmp_path, tmp_path / "bytes"):
        done = edgephi(
            command, demo_bundle, *(["hi"] * (command == "run")), option, f"{mark}{file}", input=""
        )
        assert is_one_error(done, 4)
        assert str(file) in done.stderr
