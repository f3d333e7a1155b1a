"""The command `ROOT/envs/edgephi`, which a service is started by: it stays, and runs what is active."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgephi.flash.folder import flash_folder
from edgephi.store.garbage import collect_garbage
from edgephi.store.install import Outcome
from edgephi.store.preflight import InstallOptions
from edgephi.store.rollback import roll_back
from tests.store.bundles import digest_of
from tests.store.environments.wheel_bundles import (
    RUNTIME,
    as_on_a_bare_device,
    runtime_wheel,
    signed,
    trust_only,
    wheel_bundle,
)

RELEASE = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
PROMPT = "turn on the kitchen light"


def flash(bundle: Path, root: Path) -> Outcome:
    return flash_folder(bundle, root, InstallOptions())


def answer(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [root / "envs" / "edgephi", "run", root / "current", PROMPT],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_runs_what_has_answered_in_the_devices_own_python(demo_bundle: Path, tmp_path: Path) -> None:
    flash(demo_bundle, tmp_path / "store")
    done = answer(tmp_path / "store")
    assert "kitchen" in done.stdout, done.stderr


def test_it_says_which_python_has_gone_and_a_flash_finds_another(demo_bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    flash(demo_bundle, root)
    (note,) = (root / "envs" / "of").glob("*.python")
    note.unlink()
    note.symlink_to(tmp_path / "gone" / "python")
    done = answer(root)
    assert done.returncode == 3
    assert f"found {tmp_path}/gone/python" in done.stderr
    assert flash(demo_bundle, root).probe is not None
    assert answer(root).returncode == 0


def test_it_follows_from_wheels_to_the_devices_python_and_back(
    demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where somebody installs an engine on the device later: its service has the same command."""
    root = tmp_path / "store"
    trust_only(root, "release", RELEASE)
    with monkeypatch.context() as patched:
        as_on_a_bare_device(patched, tmp_path)
        bundle = wheel_bundle(tmp_path / "wheels", {RUNTIME: runtime_wheel("from wheels")})
        flash(signed(bundle, RELEASE), root)
        assert "from wheels" in answer(root).stdout
    trusted = signed(shutil.copytree(demo_bundle, tmp_path / "demo"), RELEASE)
    flash(trusted, root)
    assert "kitchen" in answer(root).stdout
    with monkeypatch.context() as patched:
        as_on_a_bare_device(patched, tmp_path)
        roll_back(root)
        assert "from wheels" in answer(root).stdout


def test_gc_keeps_the_environment_whose_python_a_unit_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of an older edgephi, or written by hand: at the next boot it would not start."""
    root, units = tmp_path / "store", tmp_path / "units"
    units.mkdir()
    monkeypatch.setenv("SYSTEMD_UNIT_PATH", str(units))
    as_on_a_bare_device(monkeypatch, tmp_path)
    trust_only(root, "release", RELEASE)
    for number in (1, 2, 3):
        wheels = {RUNTIME: runtime_wheel(f"release {number}")}
        bundle = wheel_bundle(tmp_path / f"{number}", wheels, sequence=number)
        flash(signed(bundle, RELEASE), root)
    first = (root / "envs" / "of" / digest_of(tmp_path / "1")).resolve()
    unit = units / "phi.service"
    unit.write_text(f"[Service]\nExecStart={first}/bin/python -P -m edgephi.cli serve {root}\n")
    done = collect_garbage(root)
    assert (len(done.generations), done.in_units) == (1, ())
    ran = subprocess.run(
        [first / "bin" / "python", "-P", "-m", "edgephi.cli"], capture_output=True, check=True
    )
    assert b"release 1" in ran.stdout
    unit.unlink()
    collect_garbage(root)
    assert not first.exists()
