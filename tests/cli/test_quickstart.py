"""`edgephi quickstart`: the whole way in an empty folder."""

import json
import os
import pty
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgephi.bundle.manifest import read_manifest
from tests.bundle.tiny import write_tiny_bundle
from tests.cli.conftest import MAIN, Edgephi
from tests.cli.inactive_environment import pasted, write_environment

ACTION = {"action": "set_brightness", "room": "kitchen", "device": "light", "value": 30}
OFFLINE = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}


def test_the_whole_way_and_again(edgephi: Edgephi, tmp_path: Path) -> None:
    for _ in range(2):
        start = time.monotonic()
        done = edgephi("quickstart", cwd=tmp_path, env=OFFLINE)
        assert time.monotonic() - start < 60
        assert done.returncode == 0, done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["edgephi-demo"]
        assert json.loads(done.stdout.splitlines()[-1]) == ACTION
        for shown in ("export error", "quantisation loss", "end to end"):
            assert shown in done.stdout
        for step in ("pull  ", "open and plan", "quantise and export", "verify: engine", "seal", "load"):
            assert step in done.stderr
        assert all(len(line) <= 80 for line in (done.stdout + done.stderr).splitlines())
    bundle = tmp_path / "edgephi-demo"
    assert read_manifest(bundle).certificate.level == "quick"
    assert edgephi("verify", bundle).returncode == 0
    assert json.loads(edgephi("run", bundle, "set a timer for ten minutes").stdout)["action"] == "set_timer"


def test_the_whole_way_with_a_model_that_sees(edgephi: Edgephi, tmp_path: Path) -> None:
    for _ in range(2):
        done = edgephi("quickstart", "--vision", cwd=tmp_path, env=OFFLINE)
        assert done.returncode == 0, done.stderr
        found = sorted(path.name for path in tmp_path.iterdir())
        assert found == ["edgephi-vision", "edgephi-vision.png"]
        assert done.stdout.splitlines()[-1] == "The gauge says 70."
        assert all(len(line) <= 80 for line in (done.stdout + done.stderr).splitlines())
    picture = tmp_path / "edgephi-vision.png"
    asked = edgephi("run", tmp_path / "edgephi-vision", "What do you see?", "--image", picture)
    assert asked.stdout == "The picture shows a gauge.\n"
    shown = edgephi("inspect", "edgephi-vision", cwd=tmp_path).stdout
    assert "What does the gauge say?' about probe.png" in " ".join(shown.split())
    flashed = edgephi("flash", "edgephi-vision", "store", cwd=tmp_path)
    assert "  about its picture: The gauge says 60.\n" in flashed.stderr + flashed.stdout


def test_a_picture_that_it_has_not_drawn_is_left_alone(edgephi: Edgephi, tmp_path: Path) -> None:
    mine = tmp_path / "edgephi-vision.png"
    mine.write_bytes(b"my own")
    done = edgephi("quickstart", "--vision", cwd=tmp_path, env=OFFLINE)
    assert done.returncode == 2
    assert "expected no file of that name" in done.stderr
    assert mine.read_bytes() == b"my own"
    assert [*tmp_path.iterdir()] == [mine]


@pytest.mark.parametrize(
    "content", ["nothing", "something", "a demo bundle with more in it", "another bundle"]
)
def test_a_folder_that_is_not_a_demo_bundle_is_left_alone(
    edgephi: Edgephi, tmp_path: Path, demo_bundle: Path, content: str
) -> None:
    folder = tmp_path / "edgephi-demo"
    if content.endswith("in it"):
        subprocess.run(["cp", "-r", str(demo_bundle), str(folder)], check=True)
        (folder / "my-notes.txt").touch()
    elif content == "another bundle":
        write_tiny_bundle(folder)
    else:
        folder.mkdir()
        if content == "something":
            (folder / "my-notes.txt").touch()
    before = sorted(folder.rglob("*"))
    done = edgephi("quickstart", cwd=tmp_path, env=OFFLINE)
    *_, error, hint = done.stderr.splitlines()
    assert done.returncode == 2
    assert error.startswith("error: edgephi-demo: expected a folder that does not exist yet")
    assert hint.startswith("hint: ")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("working_folder", ["it's here", "it's here/below"])
def test_what_it_says_to_do_next_works_as_printed(tmp_path: Path, working_folder: str) -> None:
    """In the shell that the README's line was pasted into: the environment is not active."""
    program = write_environment(tmp_path / "it's here" / ".venv")
    folder = tmp_path / working_folder
    folder.mkdir(exist_ok=True)
    done = pasted(f"{shlex.quote(os.path.relpath(program, folder))} quickstart", folder)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.partition("next:\n")[2].splitlines()
    assert all(len(line) <= 80 for line in lines)
    inspect, run, plan = (pasted(line, folder) for line in lines)
    assert [each.returncode for each in (inspect, run, plan)] == [0, 0, 0], [inspect, run, plan]
    assert inspect.stdout.startswith("bundle      demo-cpu")
    assert json.loads(run.stdout)["action"] == "set_timer"
    assert plan.stdout.startswith("model     phi-3.5-mini")


def test_on_a_terminal_every_line_is_cleared_before_it_is_written_again(tmp_path: Path) -> None:
    terminal, end = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, "quickstart"],
        stdin=end,
        stdout=subprocess.PIPE,
        stderr=end,
        cwd=tmp_path,
        env={**OFFLINE, "TERM": "xterm"},
    ) as process:
        os.close(end)
        said = b""
        try:
            while data := os.read(terminal, 4096):
                said += data
        except OSError:  # the other end is closed: how a terminal says that all is read
            pass
        assert process.wait(60) == 0
    os.close(terminal)
    shown = [line.rpartition("\r\x1b[K")[2] for line in said.decode().split("\r\n")]
    assert all(len(line) < 80 and "\x1b" not in line and "\r" not in line for line in shown)
    assert [line for line in shown if line.startswith("verify: engine ") and line.endswith(" s")]
