"""Completion in real shells: what Tab makes of a line, seen by what the line then does."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgephi.cli.listing import COMMANDS
from edgephi.store.disk.layout import Layout
from tests.bundle.tiny import write_tiny_bundle

# How each shell is started without the user's own settings, and told of our completion, by docs/guide.md.
SHELLS = {
    "bash": (["--norc", "--noprofile", "-i"], 'eval "$(_EDGEPHI_COMPLETE=bash_source edgephi)"'),
    "zsh": (
        ["-f", "-i"],
        'autoload -U compinit; compinit -u -D; eval "$(_EDGEPHI_COMPLETE=zsh_source edgephi)"',
    ),
    "fish": (["--no-config", "-i"], "_EDGEPHI_COMPLETE=fish_source edgephi | source"),
}
SECONDS = 30


@dataclass(frozen=True)
class Shell:
    """An interactive shell on a terminal of its own."""

    screen: int

    def read_until(self, pattern: str) -> str:
        """What it prints up to a line that matches."""
        seen = b""
        end = time.monotonic() + SECONDS
        while not re.search(pattern, seen.decode(errors="replace")):
            ready, _, _ = select.select([self.screen], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"expected {pattern}, found {seen!r}"
            seen += os.read(self.screen, 1 << 16)
        return seen.decode(errors="replace")

    def run(self, line: str) -> None:
        """Have it run a line without waiting."""
        os.write(self.screen, f"{line}\r".encode())

    def complete(self, line: str, rest: str, then: str) -> None:
        """Type a line and Tab, and Enter when the rest of the line is there; wait for what it prints."""
        os.write(self.screen, line.encode())
        self.read_until(re.escape(line.rsplit(maxsplit=1)[-1][-2:]))
        os.write(self.screen, b"\t")
        self.read_until(rest)
        os.write(self.screen, b"\r")
        self.read_until(then)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with two bundles, a store and other folders, and `edgephi` in `bin`."""
    made = tmp_path_factory.mktemp("completion")
    write_tiny_bundle(made / "bundle-here")
    write_tiny_bundle(made / "below" / "with a space")
    write_tiny_bundle(made / "models" / "phi")
    (made / "models" / "photos").mkdir()
    store = Layout(made / "store-here")
    store.objects.mkdir(parents=True)
    store.generations.mkdir()
    program = made / "bin" / "edgephi"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edgephi.cli "$@"\n')
    program.chmod(0o755)
    return made


@pytest.fixture(scope="module", params=SHELLS)
def shell(request: pytest.FixtureRequest, folder: Path) -> Iterator[Shell]:
    """Each shell that is installed here."""
    name = request.param
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here")
    options, source = SHELLS[name]
    screen, end = pty.openpty()
    environment = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "HOME": str(folder),
        "TERM": "xterm",
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    # With the terminal for its own, as fish insists on.
    command = ["setsid", "--ctty", found, *options]
    process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, cwd=folder, env=environment)
    os.close(end)
    started = Shell(screen)
    started.run(source)
    started.run("echo rea''dy")
    started.read_until("ready")
    yield started
    process.kill()
    process.wait()
    os.close(screen)


@pytest.mark.parametrize(
    ("line", "rest", "then"),
    [
        ("edgephi rec", "ipes", r"phi-3\.5-mini"),
        ("edgephi recipes show phi-3.5-mi", "ni", r'id = "microsoft/Phi-3\.5-mini-instruct"'),
        ("edgephi targets show rasp", "berry-pi-5-8gb", "Raspberry Pi 5"),
        ("edgephi inspect bund", "le-here", "tiny"),
        ("edgephi inspect models/ph", "i", "tiny"),
        ("edgephi inspect below/with", "space", "tiny"),
    ],
)
def test_tab_completes_the_line(shell: Shell, line: str, rest: str, then: str) -> None:
    shell.complete(line, rest, then)


def offered(folder: Path, *words: str) -> list[str]:
    """The kinds and values that click's script for bash gets for the last word."""
    environment = {
        **os.environ,
        "COMP_WORDS": " ".join(("edgephi", *words)),
        "COMP_CWORD": str(len(words)),
        "_EDGEPHI_COMPLETE": "bash_complete",
    }
    command = [sys.executable, "-m", "edgephi.cli"]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_commands_are_offered_without_importing_them(folder: Path) -> None:
    assert offered(folder, "") == [f"plain,{name}" for name in COMMANDS]


def test_bundles_and_stores_are_offered_where_bundles_are_taken(folder: Path) -> None:
    for command in (
        "run",
        "chat",
        "serve",
        "inspect",
        "verify",
        "bench",
        "flash",
        "push",
        "sign",
        "sbom",
        "service",
    ):
        assert offered(folder, command, "") == ["plain,bundle-here", "plain,store-here"]


def test_where_no_bundle_lies_the_shell_completes_folders(folder: Path) -> None:
    assert offered(folder, "run", "mod") == ["dir,mod"]
    assert offered(folder, "run", "nowhere/") == ["dir,nowhere/"]


def test_a_name_to_be_quoted_is_left_to_the_shell(folder: Path) -> None:
    assert offered(folder, "run", "below/") == ["dir,below/"]


def test_models_are_recipes_or_folders(folder: Path) -> None:
    assert offered(folder, "build", "phi-4") == ["plain,phi-4", "plain,phi-4-mini"]
    assert offered(folder, "build", "mod") == ["dir,mod"]


def test_options_know_their_values(folder: Path) -> None:
    assert offered(folder, "build", "demo", "--target", "a") == ["plain,auto"]
    assert offered(folder, "plan", "demo", "--target", "qnn", "--soc", "qcs85") == ["plain,qcs8550"]
    assert offered(folder, "plan", "demo", "--recipe", "phi-3.5") == [
        "plain,phi-3.5-mini",
        "plain,phi-3.5-moe",
        "plain,phi-3.5-vision",
    ]
    assert offered(folder, "plan", "demo", "--recipe", "./own") == ["file,./own"]


def test_completing_changes_no_store(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    offered(folder, "run", "store-here", "--")
    assert sorted(folder.rglob("*")) == before
