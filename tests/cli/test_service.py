"""`edgephi service` for a store: what the unit starts, and when none is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import edgephi as edgephi_package
from edgephi.flash.folder import flash_folder
from edgephi.store.preflight import InstallOptions
from tests.cli.conftest import Edgephi, edgephi, is_one_error  # noqa: F401 - a fixture
from tests.installs import installs
from tests.store.environments.wheel_bundles import (
    RUNTIME,
    as_on_a_bare_device,
    runtime_wheel,
    signed,
    trust_only,
    wheel,
    wheel_bundle,
)

RELEASE = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
OF_SERVE = ("starlette", "uvicorn", "msgspec", "prometheus_client")


def started(unit: str) -> list[str]:
    """The words of a unit's command."""
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    return str(line).split()


def in_wheels(place: Path, root: Path, packages: tuple[str, ...]) -> None:
    """Flash a bundle into a new store on a device without an engine: its wheels hold these packages."""
    wheels = {RUNTIME: runtime_wheel("from wheels")}
    wheels |= {f"{name}-1-py3-none-any.whl": wheel({f"{name}/__init__.py": ""}) for name in packages}
    trust_only(root, "release", RELEASE)
    with pytest.MonkeyPatch.context() as patched:
        as_on_a_bare_device(patched, place)
        bundle = signed(wheel_bundle(place / "bundle", wheels), RELEASE)
        flash_folder(bundle, root, InstallOptions())


def test_a_store_is_served_by_its_own_command(
    edgephi: Edgephi,  # noqa: F811
    demo_bundle: Path,
    tmp_path: Path,
) -> None:
    """Whatever release comes next, and whichever Python that will run in."""
    root = tmp_path / "store"
    assert edgephi("flash", demo_bundle, root).returncode == 0
    done = edgephi("service", root)
    assert started(done.stdout)[:3] == [f"{root}/envs/edgephi", "serve", str(root)], done.stderr
    assert edgephi("service", root / "current").stdout == done.stdout
    # What it starts is in sight of the service.
    bound = re.findall(r"^BindReadOnlyPaths=(.*)$", done.stdout, re.MULTILINE)
    needed = [root, Path(sys.prefix), Path(sys.base_prefix)]
    hidden = [path for path in needed if path.is_relative_to("/tmp")]
    assert all(any(path.is_relative_to(each) for each in bound) for path in hidden)


def test_so_is_one_that_runs_in_its_wheels_also_by_another_edgephi(
    edgephi: Edgephi,  # noqa: F811
    tmp_path: Path,
) -> None:
    """The environment that is there today goes with its release."""
    root = tmp_path / "store"
    in_wheels(tmp_path, root, OF_SERVE)
    done = edgephi("service", root)
    assert started(done.stdout)[0] == f"{root}/envs/edgephi", done.stderr
    assert not re.search("[0-9a-f]{64}", done.stdout)


def test_a_bundle_of_its_own_is_served_by_this_python(edgephi: Edgephi, demo_bundle: Path) -> None:  # noqa: F811
    program, *words = started(edgephi("service", demo_bundle).stdout)
    assert Path(program).samefile(sys.executable)
    assert words[:4] == ["-P", "-m", "edgephi.cli", "serve"]


def test_a_store_that_runs_in_another_python_is_served_by_the_one_that_was_called(
    edgephi: Edgephi,  # noqa: F811
    demo_bundle: Path,
    tmp_path: Path,
) -> None:
    """That one may be the device's only one with the extra `serve`."""
    root = tmp_path / "store"
    assert edgephi("flash", demo_bundle, root).returncode == 0
    (note,) = (root / "envs" / "of").glob("*.python")
    note.unlink()
    note.symlink_to("/usr/bin/python3")
    assert Path(started(edgephi("service", root).stdout)[0]).samefile(sys.executable)


def without(package: str, place: Path) -> list[str]:
    """The folders of all packages of this Python, but for one."""
    place.mkdir()
    for folder in map(Path, sys.path):
        if folder.name == "site-packages":
            for path in folder.iterdir():
                if not path.name.startswith(package) and not (place / path.name).exists():
                    (place / path.name).symlink_to(path)
    return [str(Path(edgephi_package.__file__).parents[1]), str(place)]


@pytest.mark.parametrize(
    ("package", "named"), [("uvicorn", "uvicorn"), ("onnxruntime_genai", "onnxruntime-genai")]
)
def test_no_unit_is_written_for_what_is_not_installed(
    demo_bundle: Path, tmp_path: Path, package: str, named: str
) -> None:
    """It would fail at each start, which nobody sees before the next boot."""
    file = tmp_path / "phi.service"
    done = subprocess.run(
        # Without site-packages; the folder has all of them but one.
        [sys.executable, "-S", "-P", "-m", "edgephi.cli", "service", demo_bundle, "--output", file],
        env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(without(package, tmp_path / "packages"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert is_one_error(done, 3), done.stderr
    assert f"the service needs {named}, not installed in {sys.executable}" in done.stderr
    assert installs(done.stderr, "cpu", "serve"), done.stderr
    assert not file.exists()


def test_nor_for_a_release_whose_wheels_cannot_serve(edgephi: Edgephi, tmp_path: Path) -> None:  # noqa: F811
    """What the calling Python has does not count: the device has none but that of the wheels."""
    in_wheels(tmp_path, tmp_path / "store", OF_SERVE[1:])
    done = edgephi("service", tmp_path / "store")
    assert is_one_error(done, 3), done.stderr
    assert "the service needs starlette, not among the wheels of" in done.stderr
    assert "--wheels-for serve" in done.stderr


def test_the_command_of_the_unit_serves(edgephi: Edgephi, demo_bundle: Path, tmp_path: Path) -> None:  # noqa: F811
    root = tmp_path / "store"
    assert edgephi("flash", demo_bundle, root).returncode == 0
    command = started(edgephi("service", root).stdout)
    done = subprocess.run(
        [*command[:2], "--help"],
        env={"PATH": os.defpath},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "serve [OPTIONS] BUNDLE" in done.stdout
