"""edgephi's own wheel, made from the installation that these tests run in."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgephi.build.wheels.own_wheel import write_own_wheel
from edgephi.build.wheels.pip import run_pip

MAKE = """
import sys, pathlib
from edgephi.errors import EdgephiError
from edgephi.build.wheels.own_wheel import write_own_wheel
try:
    print(write_own_wheel(pathlib.Path(sys.argv[1])))
except EdgephiError as error:
    sys.exit(error.message)
"""


@pytest.fixture(scope="module")
def own_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_own_wheel(tmp_path_factory.mktemp("own"))


@pytest.fixture
def installed(own_wheel: Path, tmp_path: Path) -> Path:
    """A folder with edgephi installed from its own wheel, as on a device."""
    folder = tmp_path / "installed"
    arguments = ["install", "--no-deps", "--no-index", "--target", str(folder), str(own_wheel)]
    run_pip(arguments, scratch=tmp_path, where="test")
    return folder


def made_from(installed: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Make the wheel with an installation other than the one of these tests."""
    folder.mkdir()
    return subprocess.run(
        [sys.executable, "-PS", "-c", MAKE, str(folder)],  # no site-packages but `installed`
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_has_all_that_a_device_needs(own_wheel: Path) -> None:
    with zipfile.ZipFile(own_wheel) as archive:
        assert archive.testzip() is None
        found = set(archive.namelist())
        metadata = archive.read(next(name for name in found if name.endswith("METADATA"))).decode()
    assert {"edgephi/cli/main.py", "edgephi/runtime/__init__.py", "edgephi/targets/cpu.toml"} <= found
    assert any(name.endswith(".dist-info/entry_points.txt") for name in found)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in found)
    assert {name.split("/")[0].split("-")[0] for name in found} == {"edgephi"}
    assert not [name for name in found if name.endswith((".pyc", "direct_url.json", "INSTALLER"))]
    assert "Provides-Extra: cpu" in metadata


def test_a_wheel_of_what_it_installed_is_the_same_wheel(
    own_wheel: Path, installed: Path, tmp_path: Path
) -> None:
    """Editable or not, today or tomorrow: the same edgephi gives the same bytes."""
    done = made_from(installed, tmp_path / "again")
    assert done.returncode == 0, done.stderr
    again = Path(done.stdout.strip())
    assert again.name == own_wheel.name
    assert again.read_bytes() == own_wheel.read_bytes()


def test_an_installation_that_was_changed_by_hand(installed: Path, tmp_path: Path) -> None:
    with (installed / "edgephi/chat/formats.py").open("a") as file:
        file.write("# a local change\n")
    done = made_from(installed, tmp_path / "again")
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "edgephi/chat/formats.py: expected the file as it was installed, found a changed one"
    )


def test_an_installation_with_a_file_missing(installed: Path, tmp_path: Path) -> None:
    (installed / "edgephi/targets/cpu.toml").unlink()
    done = made_from(installed, tmp_path / "again")
    assert done.stderr.strip() == (
        "edgephi/targets/cpu.toml: expected a file of the installed edgephi, found No such file or directory"
    )


def test_an_edgephi_that_is_not_installed(installed: Path, tmp_path: Path) -> None:
    (information,) = installed.glob("*.dist-info")
    shutil.rmtree(information)
    done = made_from(installed, tmp_path / "again")
    assert done.stderr.strip() == "expected an installed edgephi, found none: there is no wheel to make"
