"""Runs every command that README and docs show, as a reader pastes it: `python -m tests.docs.run_commands`.

Each page is pasted into a bash of its own, in a fresh clone and a fresh home. What a test cannot have stands
in (`STAND_INS`; boxes and a registry: see `stand_ins`), and the page says which of its commands are not run,
and why. Where a page installs something, its environment is fresh too: it must install all that its
commands use. On other pages, and on all with `--installed`, `edgephi` is that of this Python, and what
installs is left out.
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.docs.shell_blocks import PAGES, ROOT, Block, Command, shell_blocks
from tests.docs.stand_ins import boxes, enter_namespace, furnish, registry

STAND_INS = (
    # The weights of Phi are 7.6 GB. The demo is a model of the same family that is inside the package.
    (re.compile(r"\b(pull|build|tune) phi-3\.5-mini\b"), r"\1 demo"),
    (re.compile(r"--against phi-3\.5-mini\b"), "--against demo"),
    # Neither a GPU nor a Mac: their bundles run on the processor, too.
    (re.compile(r"\brun phi-(cuda|mlx)\b"), r"\g<0> --provider cpu"),
)
INSTALLS = re.compile(r"\bpip install\b|\bpip wheel\b|\bdist/|\bpython3 -m venv\b|/bin/activate\b")
_INSTALLED = Path(sys.prefix) / "bin"
_SECONDS = 300
_TYPED = "turn on the kitchen light\n"  # to a command that reads what a reader types
# Ctrl-C and the next command are what a reader does with a server that runs.
_PRELUDE = """
edgephi() {
    [[ ${1-} == serve ]] || { command edgephi "$@"; return; }
    end_server || return
    : > "$SCRATCH/serve.log"  # what the server before said is not this one's
    command edgephi "$@" > "$SCRATCH/serve.log" 2>&1 &
    server=$!
    for ((tenths = 0; tenths < 600; tenths++)); do
        grep -q http:// "$SCRATCH/serve.log" && { cat "$SCRATCH/serve.log"; return 0; }
        kill -0 "$server" 2> /dev/null || break
        sleep 0.1
    done
    cat "$SCRATCH/serve.log" >&2
    server=
    return 1
}
end_server() {
    [[ -n ${server-} ]] || return 0
    kill "$server" && wait "$server"
    local code=$?
    server=
    return "$code"
}
"""


@dataclass(frozen=True)
class Outcome:
    """How one command went; `problem` is "" where it did what the page says."""

    place: str
    command: str
    seconds: float
    problem: str


class Shell:
    """One bash, to paste into."""

    def __init__(self, folder: Path, environment: dict[str, str], scratch: Path) -> None:
        scratch.mkdir()
        self._scratch = scratch
        self._number = 0
        self._code = 0
        self._typed = scratch / "typed"
        self._typed.write_text(_TYPED)
        read, write = os.pipe()
        self._codes = os.fdopen(read)
        os.set_inheritable(write, True)
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            env={**environment, "SCRATCH": str(scratch)},
            stdin=subprocess.PIPE,
            pass_fds=[write],
            text=True,
            start_new_session=True,
        )
        self._write = write
        os.close(write)
        self._source(_PRELUDE)

    def paste(self, text: str) -> tuple[int, str]:
        """Run it; exit code and what was printed. `$?` is that of the command before, as when one types."""
        self._code, printed = self._source(f"(exit {self._code})\n{text}\n")
        return self._code, printed

    def close(self) -> tuple[int, str]:
        """End a server that still runs, and the shell; how the server ended."""
        ended = self._source("end_server")
        self._process.communicate("exit\n", timeout=_SECONDS)
        return ended

    def _source(self, text: str) -> tuple[int, str]:
        self._number += 1
        file, said = (self._scratch / f"{self._number}.{kind}" for kind in ("sh", "out"))
        file.write_text(text)
        assert self._process.stdin is not None
        self._process.stdin.write(
            f"source {file} < {self._typed} > {said} 2>&1 {self._write}>&-; echo $? >&{self._write}\n"
        )
        self._process.stdin.flush()
        watch = threading.Timer(_SECONDS, self._process.kill)
        watch.start()
        try:
            code = self._codes.readline()
        finally:
            watch.cancel()
        printed = said.read_text(errors="replace") if said.exists() else ""
        return int(code) if code else -1, printed


def run_page(page: str, scratch: Path, *, installed: bool) -> Iterator[Outcome]:
    """Paste the page, command after command, until it has ended."""
    blocks = shell_blocks(page)
    clone = scratch / "edgephi"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)], check=True)
    text = "\n".join(command.text for block in blocks if not block.not_run for command in block.commands)
    installed = installed or not _installs_first(text)
    commands = _INSTALLED if installed else clone / ".venv" / "bin"
    if not installed and "venv .venv" not in text:  # the page is for a reader who has an active environment
        subprocess.run([sys.executable, "-m", "venv", str(clone / ".venv")], check=True)
    with contextlib.ExitStack() as stack:
        home, certificate = scratch / "home", None
        if re.search(r"\bbox(-\d)?[:/]", text) or any(block.on_the_box for block in blocks):
            first, _ = stack.enter_context(boxes(scratch / "boxes", commands))
            home = first.home
        if "registry.example" in text:
            certificate = stack.enter_context(registry(scratch / "registry"))
        home.mkdir(exist_ok=True)
        environment = _environment(home, commands)
        if certificate is not None:
            environment["SSL_CERT_FILE"] = str(certificate)
        shells = {False: Shell(clone, environment, scratch / "shell")}
        if any(block.on_the_box for block in blocks):
            far_home = scratch / "boxes" / "box-1" / "far-home"
            shells[True] = Shell(far_home, _environment(far_home, commands), scratch / "far-shell")
        if installed:
            for folder in (clone, scratch / "boxes" / "box-1" / "far-home"):
                for name in (".venv", ".venv-test", "venv") if folder.exists() else ():
                    (folder / name).symlink_to(sys.prefix)
        for block in blocks:
            yield from _run_block(page, block, shells[block.on_the_box], installed=installed)
        for shell in shells.values():
            code, printed = shell.close()
            if code:
                yield Outcome(page, "the server's end", 0, f"exit code {code}\n{printed}")


def _installs_first(text: str) -> bool:
    """Whether these commands install before they use edgephi."""
    first = re.search(r"\b(edgephi [a-z]|pip install)", text)
    return first is not None and first[1] == "pip install"


def _run_block(page: str, block: Block, shell: Shell, *, installed: bool) -> Iterator[Outcome]:
    if block.not_run:
        return
    given = [Command(text, block.line) for text in block.given]
    for command in [*given, *block.commands]:
        if installed and INSTALLS.search(command.text):
            continue
        text = command.text
        for pattern, stand_in in STAND_INS:
            text = pattern.sub(stand_in, text)
        pasted = text
        if command in given:  # it may have been done elsewhere, with more than this page installs
            pasted = f"PATH={_INSTALLED}:$PATH\n{text}\ncode=$?; PATH=${{PATH#*:}}; (exit $code)"
        start = time.monotonic()
        code, printed = shell.paste(pasted)
        seconds = time.monotonic() - start
        yield Outcome(f"{page}:{command.line}", text, seconds, _problem(command, code, printed))


def _problem(command: Command, code: int, printed: str) -> str:
    """What is not as the page says."""
    expected = command.error_lines
    if bool(expected) != (code != 0):
        return f"exit code {code}\n{printed}"
    found = {_same(line) for line in printed.splitlines()}
    missing = [line for line in expected if _same(line) not in found]
    if missing:
        return f"expected the line {missing[0]!r}, found\n{printed}"
    return ""


def _same(line: str) -> str:
    """A line without what differs from run to run: the digits of a hash."""
    return re.sub(r"\b[0-9a-f]{12,64}\b", "HASH", line)


def _environment(home: Path, commands: Path) -> dict[str, str]:
    """That of a reader who has logged in just now, and knows where packages come from."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "LANG"))}
    python = Path(sys.base_prefix) / "bin"
    search = f"{commands}:{python}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {**kept, "HOME": str(home), "PATH": search, "TERM": "dumb", "COLUMNS": "80", "LC_ALL": "C.UTF-8"}


def main() -> int:
    """Run the pages; 1 when a command did not do what its page says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", help="README.md, docs/guide.md …; all without any")
    parser.add_argument("--installed", action="store_true", help="use this Python's edgephi, install nothing")
    asked = parser.parse_args()
    enter_namespace("tests.docs.run_commands", sys.argv[1:])
    failed = count = 0
    for page in asked.pages or PAGES:
        with tempfile.TemporaryDirectory(prefix="edgephi-docs-") as name:
            scratch = Path(name)
            furnish(scratch, scratch / "boxes" / "box-1")
            for outcome in run_page(page, scratch, installed=asked.installed):
                count += 1
                failed += bool(outcome.problem)
                _say(outcome)
            _clear()
    print(f"{count} commands run as pasted, {failed} not as their page says")
    return 1 if failed else 0


def _clear() -> None:
    for place in ("/etc/hosts", "/etc/passwd", "/srv", "/mnt"):
        subprocess.run(["umount", "--lazy", place], check=True)


def _say(outcome: Outcome) -> None:
    first, *more = outcome.command.splitlines()
    mark = "FAIL" if outcome.problem else "ok"
    print(
        f"{mark:4}  {outcome.place:26}  {outcome.seconds:6.1f} s  {first}{' …' if more else ''}", flush=True
    )
    if outcome.problem:
        print("      " + outcome.problem.replace("\n", "\n      "), flush=True)


if __name__ == "__main__":
    sys.exit(main())
