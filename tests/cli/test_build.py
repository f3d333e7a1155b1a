"""`edgephi build` as a user types it; what it makes is tested in tests/build."""

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import click
import pytest

from edgephi.cli.build import build
from edgephi.declared.recipe import Method
from tests.cli.conftest import MAIN, Edgephi, is_one_error
from tests.installs import installs

# What a terminal emulator does before it starts a shell, so that Ctrl-C becomes a signal.
OWN_TERMINAL = """
import fcntl, signal, termios
fcntl.ioctl(2, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo"],
        ["demo", "-t", "cpu"],
        ["demo", "-o", "b"],
        ["demo", "-t", "cpu", "-o", "b", "--verify", "perhaps"],
        ["demo", "-t", "cpu", "-o", "b", "--method", "awq"],
        ["demo", "-t", "cpu", "-o", "b", "--context", "0"],
        ["demo", "-t", "cpu", "-o", "b", "--sequence", "0"],
        ["demo", "-t", "cpu", "-o", "b", "--sequence", "2", "--security-floor", "3"],
        ["demo", "-t", "cpu", "-o", "b", "--revision", "main"],
        ["demo", "-t", "cpu", "-o", "."],
        ["demo", "-t", "cpu", "-o", ".."],
        ["demo", "-t", "cpu", "-o", ""],
        ["demo", "-t", "cpu", "-o", "none/.."],
    ],
)
def test_usage_errors(edgephi: Edgephi, tmp_path: Path, arguments: list[str]) -> None:
    assert is_one_error(edgephi("build", *arguments, cwd=tmp_path), 2)
    assert list(tmp_path.iterdir()) == []


def test_every_method_can_be_asked_for() -> None:
    (method,) = [option for option in build.params if option.name == "method"]
    assert isinstance(method.type, click.Choice)
    assert tuple(method.type.choices) == get_args(Method)


def test_says_what_was_built_and_what_to_do_next(edgephi: Edgephi, tmp_path: Path) -> None:
    done = edgephi("build", "demo", "-t", "cpu", "-o", "b", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("demo-cpu: ")
    assert lines[-1] == "edgephi run b 'your question'"
    assert all(len(line) <= 80 for line in lines)


def test_a_quality_is_built_and_the_command_says_so(edgephi: Edgephi, tmp_path: Path) -> None:
    options = ("-t", "cpu", "--quality", "small", "--method", "rtn", "--verify", "off", "-o", "b", "--json")
    done = edgephi("build", "demo", *options, cwd=tmp_path)
    manifest = json.loads(done.stdout)["manifest"]
    quant = manifest["quant"]
    assert (quant["group_size"], quant["embedding_bits"], quant["method"]) == (64, 4, "rtn")
    assert "--recipe demo --quality small --method rtn" in manifest["provenance"]["command"]


def test_a_quality_that_chooses_needs_a_method_that_measures(edgephi: Edgephi, tmp_path: Path) -> None:
    done = edgephi(
        "build", "demo", "-t", "cpu", "--quality", "best", "--method", "rtn", "-o", "b", cwd=tmp_path
    )
    assert is_one_error(done, 3)
    assert "expected the method weighted or calibrated, found rtn" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_auto_builds_for_this_machine(edgephi: Edgephi, tmp_path: Path) -> None:
    done = edgephi("build", "demo", "-t", "auto", "--verify", "off", "-o", "b", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    chosen = json.loads(done.stdout)["manifest"]["target"]["name"]
    assert done.stderr.startswith(f"{chosen} ")  # the reason


def test_ctrl_c_on_a_terminal_leaves_a_clean_line(slow: Path, tmp_path: Path) -> None:
    """The bar moves while weights are quantised; Ctrl-C, as the terminal sends it, wipes it away."""
    terminal, end = pty.openpty()
    command = [
        sys.executable,
        "-c",
        OWN_TERMINAL + MAIN,
        "build",
        str(slow),
        "-t",
        "cpu",
        "-o",
        str(tmp_path / "b"),
    ]

    with subprocess.Popen(
        command, stdin=end, stdout=subprocess.PIPE, stderr=end, start_new_session=True
    ) as process:
        os.close(end)
        said = b""
        pressed = 0.0
        try:
            while data := os.read(terminal, 4096):
                said += data
                if not pressed and said.count(b"[#") >= 2:
                    pressed = time.monotonic()
                    os.write(terminal, b"\x03")
        except OSError:
            pass
        assert process.wait(60) == 130
    os.close(terminal)
    assert pressed
    assert time.monotonic() - pressed < 10
    assert b"Traceback" not in said
    assert said.decode().rstrip("\r\n").endswith("\r\x1b[K")
    assert list(tmp_path.iterdir()) == []


def test_without_the_engine_that_would_prove_it_nothing_is_begun(edgephi: Edgephi, tmp_path: Path) -> None:
    """Or the minutes of a large model's export would be lost."""
    not_installed = """
from importlib import metadata
installed = metadata.version
def version(name):
    if name.startswith("onnxruntime-genai"):
        raise metadata.PackageNotFoundError(name)
    return installed(name)
metadata.version = version
"""
    done = edgephi("build", "demo", "--target", "cpu", "-o", tmp_path / "bundle", before=not_installed)
    assert is_one_error(done, 3)
    assert "onnxruntime-genai, which is not installed" in done.stderr
    assert installs(done.stderr, "cpu")
    assert "`, or build without a proof: --verify off" in done.stderr
    done = edgephi(
        "build", "demo", "--target", "cpu", "-o", tmp_path / "bundle", "--verify", "off", before=not_installed
    )
    assert done.returncode == 0
