"""A shell as a newcomer has it: edgephi is in a Python environment that is not active."""

import shlex
import subprocess
import sys
from pathlib import Path

import edgephi

_PROGRAM = "import sys; del sys.argv[0]; from edgephi.cli.__main__ import main; main()"


def write_environment(folder: Path) -> Path:
    """Make a Python environment with this edgephi and all that it has here; its program."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "packages.pth").write_text("\n".join([str(Path(edgephi.__file__).parents[1]), *sys.path[1:]]))
    program = folder / "bin" / "edgephi"
    # As pip writes it where a path has a space.
    python = shlex.quote(str(folder / "bin" / "python3"))
    program.write_text(f'#!/bin/sh\nexec {python} -c \'{_PROGRAM}\' "$0" "$@"\n')
    program.chmod(0o755)
    return program


def pasted(line: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """What comes of a line that is pasted into a fresh shell in this folder."""
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-c", line],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "COLUMNS": "80", "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
