"""The commands of README and docs run as pasted. CI runs all: `python -m tests.docs.run_commands`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.shell_blocks import PAGES, ROOT, shell_blocks
from tests.flash.ssh.sshd import SSHD

_NAMESPACES = os.geteuid() == 0 and shutil.which("unshare") is not None
needs_boxes = pytest.mark.skipif(
    SSHD is None or not _NAMESPACES, reason="needs sshd, and root for a mount namespace"
)


def run(*pages: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.docs.run_commands", "--installed", *pages],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_boxes
@pytest.mark.slow
def test_what_the_readme_shows_runs_as_pasted() -> None:
    done = run("README.md")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_boxes
def test_a_command_that_does_not_do_what_its_page_says_is_found(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(
        "```sh\nedgephi inspect nothing-here\nedgephi --version\n```\n"
        "```console\n$ edgephi inspect 'some bundle'\nerror: expected something else\n$ false\n```\n"
        "<!-- not run: it cannot be -->\n```sh\nfalse\n```\n"
    )
    words = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "a page"]
    subprocess.run(["git", "-C", str(tmp_path), "add", "README.md"], check=True)
    subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    done = run("README.md", root=tmp_path)
    assert done.returncode == 1
    marks = [line.split()[:2] for line in done.stdout.splitlines() if " README.md:" in line]
    assert marks == [
        ["FAIL", "README.md:2"],
        ["ok", "README.md:3"],
        ["FAIL", "README.md:6"],
        ["FAIL", "README.md:8"],
    ]
    assert done.stdout.endswith("4 commands run as pasted, 3 not as their page says\n")


def test_what_is_not_run_has_a_reason() -> None:
    blocks = [block for page in PAGES for block in shell_blocks(page)]
    assert sum(len(block.commands) for block in blocks) > 90
    assert all(len(block.not_run.split()) > 2 for block in blocks if block.not_run)
