"""Wheels from the real package index, installed on this machine without a network."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from edgephi.bundle.files import check_files
from edgephi.cli.show.wheels import wheels_command
from tests.build.wheels.conftest import BuildWithWheels, without_network

HERE = f"linux-{platform.machine()}-cp3{sys.version_info.minor}"
PROMPT = "turn on the kitchen light"
ANSWER = {"action": "turn_on", "room": "kitchen", "device": "light"}
# Settings with which pip reaches nobody, for machines on which the network cannot be cut.
NOBODY = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": "",
          "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}  # fmt: skip


def offline(command: str, folder: Path) -> str:
    """Standard output of a shell command that cannot reach any network."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8", **NOBODY}
    environment["PIP_COMPILE"] = "0"  # most modules are never imported
    done = subprocess.run(
        [*without_network(), "bash", "-euc", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="installs Linux wheels on this machine")
def test_the_printed_command_installs_it_and_the_bundle_answers(
    build_with_wheels: BuildWithWheels, tmp_path: Path
) -> None:
    built = build_with_wheels("cpu", HERE, "serve", "trust")
    check_files(built.folder, built.manifest)
    install = wheels_command(built.folder, built.manifest.wheels[0])
    # The command's python3 is that of the device; here, it is the one that the wheels are for.
    offline(install.replace("python3", sys.executable, 1), tmp_path)
    answered = offline(f"venv/bin/edgephi run {built.folder} '{PROMPT}'", tmp_path)
    assert json.loads(answered) == ANSWER
    offline("venv/bin/pip check", tmp_path)
    offline("venv/bin/python -c 'import starlette, uvicorn'", tmp_path)  # for serve
    offline("venv/bin/python -c 'import ecdsa'", tmp_path)  # for a store with a key
    installed = sum(file.stat().st_size for file in tmp_path.rglob("venv/lib/**/*") if file.is_file())
    assert installed > built.manifest.wheels[0].installed_bytes  # pip itself and some bytecode beside it
