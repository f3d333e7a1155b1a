"""A box that has a Python and nothing else: what runs the bundle travels in the bundle."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.build.wheels.conftest import BuildWithWheels, _index, build_with_wheels  # noqa: F401 - fixtures
from tests.flash.ssh.sshd import Sshd
from tests.flash.ssh.test_ssh import active, edgephi, one_line_error
from tests.store.bundles import digest_of
from tests.store.environments.wheel_bundles import RUNTIME, runtime_wheel, wheel_bundle

HERE = f"linux-{platform.machine()}-cp3{sys.version_info.minor}"
PROMPT = "turn on the kitchen light"
ANSWER = {"action": "turn_on", "room": "kitchen", "device": "light"}


@pytest.mark.slow
def test_the_runtime_comes_from_the_bundles_wheels(
    bare_box: Sshd,
    build_with_wheels: BuildWithWheels,  # noqa: F811 - the fixture
    demo_bundle: Path,
    root: Path,
) -> None:
    bundle = build_with_wheels("cpu", HERE).folder
    options = ("--json", "--unsigned-wheels")
    done = edgephi(bare_box, "flash", bundle, bare_box.destination(root), *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["probe"]["tokens_per_second"] > 0
    assert active(root) == digest_of(bundle)
    (environment,) = (path.parent for path in (root / "envs").glob("*/pyvenv.cfg"))
    # What the user runs on the box, and from where it takes the bundle, do not move.
    answered = subprocess.run(
        [root / "envs" / "edgephi", "run", root / "current", PROMPT],
        env={"PATH": "/usr/bin:/bin", "HOME": str(bare_box.far_home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(answered.stdout) == ANSWER
    stood = environment.stat().st_mtime_ns
    again = edgephi(bare_box, "flash", bundle, bare_box.destination(root), *options)
    assert json.loads(again.stdout)["was_current"]
    assert environment.stat().st_mtime_ns == stood


def test_wheels_that_nobody_signed_run_only_where_that_is_said(
    bare_box: Sshd, tmp_path: Path, root: Path
) -> None:
    bundle = wheel_bundle(tmp_path / "bundle", {RUNTIME: runtime_wheel("good")})
    refused = edgephi(bare_box, "flash", bundle, bare_box.destination(root))
    assert refused.returncode == 4
    assert "expected a key of this store to vouch for the wheels" in one_line_error(refused)
    assert not root.exists()
    taken = edgephi(bare_box, "flash", bundle, bare_box.destination(root), "--unsigned-wheels")
    assert taken.returncode == 0, taken.stderr
    assert active(root) == digest_of(bundle)
    scrubbed = edgephi(bare_box, "status", "--scrub", bare_box.destination(root))
    assert scrubbed.returncode == 0
    (module,) = (root / "envs").glob("*/lib/*/site-packages/edgephi/__init__.py")
    module.write_text("")
    scrubbed = edgephi(bare_box, "status", "--scrub", bare_box.destination(root))
    assert scrubbed.returncode == 4
    assert "site-packages/edgephi/__init__.py: is not as it was made" in scrubbed.stdout


def test_without_wheels_it_is_refused_before_anything_is_sent(
    bare_box: Sshd, demo_bundle: Path, root: Path
) -> None:
    done = edgephi(bare_box, "flash", demo_bundle, bare_box.destination(root))
    assert done.returncode == 3
    assert "expected edgephi with onnxruntime-genai, found none" in one_line_error(done)
    assert f"build it with --wheels {HERE}" in done.stderr
    assert not root.exists()


def test_the_agent_needs_nothing_but_python(bare_box: Sshd, root: Path) -> None:
    done = edgephi(bare_box, "status", bare_box.destination(root))
    assert done.returncode == 2
    assert str(root) in one_line_error(done)


def test_a_box_without_python(bare_box: Sshd, demo_bundle: Path, root: Path) -> None:
    for path in bare_box.commands.glob("python*"):
        path.unlink()
    done = edgephi(bare_box, "flash", demo_bundle, bare_box.destination(root))
    assert done.returncode == 3
    assert "expected Python 3.11 or newer, found none" in one_line_error(done)


def test_a_box_whose_python_is_too_old(bare_box: Sshd, demo_bundle: Path, root: Path) -> None:
    """One that answers as Python 3.9 does: none is at hand."""
    for path in bare_box.commands.glob("python*"):
        path.unlink()
    old = bare_box.commands / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2"\nexit 1\n')
    old.chmod(0o755)
    done = edgephi(bare_box, "flash", demo_bundle, bare_box.destination(root))
    assert done.returncode == 3
    assert "expected Python 3.11 or newer, found Python 3.9.2" in one_line_error(done)


def test_a_newer_python_beside_an_old_one_is_found(bare_box: Sshd, root: Path) -> None:
    python = (bare_box.commands / "python3").resolve()
    for path in bare_box.commands.glob("python*"):
        path.unlink()
    old = bare_box.commands / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    (bare_box.commands / f"python3.{sys.version_info.minor}").symlink_to(python)
    done = edgephi(bare_box, "status", bare_box.destination(root))
    assert str(root) in one_line_error(done)  # the agent's own words


def test_a_shell_that_greets_does_not_disturb(tmp_path: Path, demo_bundle: Path, root: Path) -> None:
    server = Sshd(tmp_path / "chatty", greeting="echo Welcome to the box; ")
    server.start()
    try:
        done = edgephi(server, "flash", demo_bundle, server.destination(root))
        assert done.returncode == 0, done.stderr
        assert active(root) == digest_of(demo_bundle)
    finally:
        server.kill()
