"""`edgephi doctor`, on this machine and on a bare installation."""

import json
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from edgephi.declared.target import targets
from edgephi.engines.facts.registry import known_engines
from tests.cli.conftest import Edgephi


def test_says_what_this_machine_is(edgephi: Edgephi) -> None:
    done = edgephi("doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["memory_bytes"] == psutil.virtual_memory().total
    assert all(
        each.keys() == {"package", "installed", "allowed", "extra"}
        for each in document["packages_out_of_range"]
    )
    assert 0 < document["available_bytes"] <= document["memory_bytes"]
    assert document["processor"]["logical_cores"] == psutil.cpu_count()
    assert document["processor"]["architecture"] == platform.machine()
    assert 1e8 < document["read_bytes_per_second"] < 1e13
    assert [engine["engine"] for engine in document["engines"]] == list(known_engines())
    assert [target["name"] for target in document["targets"]] == [target.name for target in targets()]


def test_every_target_is_possible_or_says_why_not(edgephi: Edgephi) -> None:
    by_name = {target["name"]: target for target in json.loads(edgephi("doctor", "--json").stdout)["targets"]}
    assert by_name["cpu"]["build"] == by_name["cpu"]["run"] == {"possible": True}
    board = by_name["raspberry-pi-5-8gb"]["run"]
    assert board["reason"] == "made for a Raspberry Pi 5, which this machine is not"
    for target in by_name.values():
        for verdict in (target["build"], target["run"]):
            assert verdict["possible"] or (verdict["reason"] and verdict["hint"])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the emulator is for x86-64")
def test_why_the_npu_is_not_usable_here(edgephi: Edgephi) -> None:
    document = json.loads(edgephi("doctor", "--json").stdout)
    engine = next(each for each in document["engines"] if each["engine"] == "qnn")
    assert engine["version"]
    assert re.fullmatch(r"QAIRT 2\.\d+\.\d+\.\d{12}, no Qualcomm chip found", engine["details"])
    target = next(each for each in document["targets"] if each["name"] == "qnn")
    assert target["build"] == {"possible": True}
    assert target["run"] == {
        "possible": False,
        "reason": "an x86-64 processor has no Hexagon NPU, only Qualcomm's emulator of it runs here",
        "hint": "its bundles run here in emulation, whose speed is no device's",
    }


def test_fits_into_80_columns(edgephi: Edgephi) -> None:
    done = edgephi("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "read at " in done.stdout
    assert "\ncpu " in done.stdout
    assert "made for a Raspberry Pi 5" in done.stdout


@pytest.mark.slow
def test_a_bare_installation(tmp_path: Path) -> None:
    """Without any extra; what would help comes from where this came from."""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    installed = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", str(root)], capture_output=True, text=True, check=False
    )
    if installed.returncode:
        pytest.skip(f"the package index is out of reach: {installed.stderr.strip()[-200:]}")
    done = subprocess.run(
        [tmp_path / "venv/bin/edgephi", "doctor", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert {engine["version"] for engine in document["engines"]} == {None}
    for target in document["targets"]:
        assert not target["build"]["possible"]
        assert not target["run"]["possible"]
        extras = "build,qnn" if target["engine"] == "qnn" else "build"
        words = shlex.split(target["build"]["hint"])
        assert words == ["venv/bin/pip", "install", f"{root}[{extras}]"]
    cpu = next(target for target in document["targets"] if target["name"] == "cpu")
    assert cpu["run"] == {
        "possible": False,
        "reason": "onnxruntime-genai is not installed",
        "hint": shlex.join(["venv/bin/pip", "install", f"{root}[cpu]"]),
    }
