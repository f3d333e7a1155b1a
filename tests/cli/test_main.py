"""The group of commands: listing, errors and exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

import edgephi as package
from edgephi.cli.listing import COMMANDS, GROUPS
from edgephi.cli.main import cli
from tests.bundle.tiny import write_tiny_bundle
from tests.cli.conftest import MAIN, Edgephi, is_one_error
from tests.installs import installs


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_every_command(edgephi: Edgephi, option: str) -> None:
    done = edgephi(option)
    assert (done.returncode, done.stderr) == (0, "")
    groups = done.stdout.split("\n\n")[-len(GROUPS) :]
    listed = [
        (heading, [line.split()[0] for line in lines]) for heading, *lines in map(str.splitlines, groups)
    ]
    assert listed == [(f"{heading}:", list(commands)) for heading, commands in GROUPS.items()]


def test_no_arguments_show_the_help(edgephi: Edgephi) -> None:
    done = edgephi()
    assert done.returncode == 2
    assert "Start:" in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_the_listing_says_what_the_command_says(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert (command.help or "").splitlines()[0] == COMMANDS[name]
    assert command.name == name


def test_version(edgephi: Edgephi) -> None:
    assert edgephi("--version").stdout == f"edgephi {package.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["rnu"], ["--colour"], ["inspect", "--jsn", "x"], ["run", "x", "y", "z"]]
)
def test_usage_errors(edgephi: Edgephi, arguments: list[str]) -> None:
    assert is_one_error(edgephi(*arguments), 2)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["biuld", "demo"], "build"),
        (["Chat"], "chat"),
        (["install", "bundle"], "flash"),
        (["version"], "--version"),
        (["build", "demo", "--taget", "cpu"], "--target"),
        (["targets", "shw", "cpu"], "show"),
        (["trust", "ad", "store"], "add"),
    ],
)
def test_what_was_probably_meant_is_said(edgephi: Edgephi, arguments: list[str], meant: str) -> None:
    done = edgephi(*arguments)
    assert is_one_error(done, 2)
    assert f"; did you mean {meant}?\n" in done.stderr


@pytest.mark.parametrize("arguments", [["xyzzy"], ["run", "bundle", "--xyzzy"], ["targets", "xyzzy"]])
def test_where_nothing_is_close_nothing_is_suggested(edgephi: Edgephi, arguments: list[str]) -> None:
    done = edgephi(*arguments)
    assert is_one_error(done, 2)
    assert "xyzzy" in done.stderr
    assert "did you mean" not in done.stderr


def test_debug_shows_the_traceback(edgephi: Edgephi) -> None:
    quiet, loud = edgephi("inspect", "nowhere"), edgephi("--debug", "inspect", "nowhere")
    assert is_one_error(quiet, 4)
    assert loud.returncode == 4
    assert "Traceback" in loud.stderr
    assert loud.stderr.endswith(quiet.stderr)


BUG = "import edgephi.cli.inspect as m\ndef read(bundle): raise KeyError('a\\nb')\nm.read_manifest = read"


def test_a_bug_is_one_line_too(edgephi: Edgephi) -> None:
    done = edgephi("inspect", "x", before=BUG)
    assert is_one_error(done, 1)
    assert "bug in edgephi: KeyError" in done.stderr
    assert "--debug inspect x`" in done.stderr


def test_whose_traceback_is_shown_is_told_to_report_it(edgephi: Edgephi) -> None:
    done = edgephi("--debug", "inspect", "x", before=BUG)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("hint: report it with the traceback above\n")


@pytest.mark.parametrize(
    ("problem", "exit_code", "message"),
    [
        ("raise OSError(28, 'No space left on device', 'file')", 3, "file: No space left on device"),
        ("raise OSError(5, 'Input/output error')", 4, "error: Input/output error"),
        ("open('/proc/1/mem/x')", 4, "/proc/1/mem/x: Not a directory"),
        ("bytearray(1 << 60)", 3, "not enough memory"),
    ],
)
def test_what_the_system_refuses_is_no_bug(
    edgephi: Edgephi, problem: str, exit_code: int, message: str
) -> None:
    before = f"import edgephi.cli.inspect as m\ndef read(bundle): {problem}\nm.read_manifest = read"
    done = edgephi("inspect", "x", before=before)
    assert is_one_error(done, exit_code)
    assert message in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_into_80_columns(edgephi: Edgephi, name: str) -> None:
    done = edgephi(name, "--help", env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 0
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_a_command_without_its_extra(edgephi: Edgephi) -> None:
    before = "import edgephi.cli.inspect as m\ndef read(bundle): import tokenizers\nm.read_manifest = read"
    done = edgephi("inspect", "x", before="import sys; sys.modules['tokenizers'] = None\n" + before)
    assert is_one_error(done, 3)
    assert installs(done.stderr, "build")


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path)
    command = [sys.executable, "-c", f"import time; time.sleep(0.5)\n{MAIN}", "inspect", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


def test_a_terminal_without_unicode(edgephi: Edgephi, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path)
    before = "import sys; sys.stdout.reconfigure(encoding='iso8859-5')"
    done = edgephi("inspect", tmp_path, before=before)
    assert (done.returncode, done.stderr) == (0, "")
    assert "12.35 ? 12.35" in done.stdout
