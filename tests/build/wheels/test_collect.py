"""Which wheels are collected for a device: pip is asked for real, with small wheels and no network."""

import hashlib
import sys
from pathlib import Path

import pytest

from edgephi.build.wheels.collect import collect
from edgephi.build.wheels.platform import read_platform
from edgephi.bundle.manifest import Wheelhouse
from edgephi.errors import NotSupportedError, TransportError
from tests.build.conftest import names
from tests.build.wheels.wheels import only_from, only_from_index, write_wheel

PLATFORM = "linux-aarch64-cp311"
NATIVE = "cp311-cp311-manylinux_2_28_aarch64"
FOREIGN = "cp311-cp311-manylinux_2_28_x86_64"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    only_from(monkeypatch, tmp_path / "index")
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


def collected(tmp_path: Path, own: Path, *extras: str, platform: str = PLATFORM) -> Wheelhouse:
    (tmp_path / "scratch").mkdir()
    return collect(
        tmp_path / "wheels",
        read_platform(platform),
        extras,
        own_wheel=own,
        scratch=tmp_path / "scratch",
    )


def test_all_that_is_needed_is_there_and_pinned_by_hash(tmp_path: Path, index: Path) -> None:
    own = write_wheel(
        tmp_path, "edgephi", requires=["base", 'engine>=2; extra == "cpu"', 'other; extra == "gguf"'],
        extras=["cpu", "gguf"],
    )  # fmt: skip
    write_wheel(index, "base")
    write_wheel(index, "other")
    write_wheel(index, "engine", "1.0", tag=NATIVE)
    engine = write_wheel(index, "engine", "2.1", requires=["deeper[fast]"], tag=NATIVE, size=5000)
    write_wheel(index, "deeper", requires=['below; extra == "fast"'], extras=["fast"])
    write_wheel(index, "below", tag="cp310-abi3-manylinux2014_aarch64")
    wheelhouse = collected(tmp_path, own, "cpu")
    assert names(tmp_path / "wheels") == {
        "base-1.0-py3-none-any.whl",
        "below-1.0-cp310-abi3-manylinux2014_aarch64.whl",
        "deeper-1.0-py3-none-any.whl",
        "edgephi-1.0-py3-none-any.whl",
        engine.name,
        "requirements.txt",
    }
    lines = (tmp_path / "wheels/requirements.txt").read_text().splitlines()
    assert {"--no-index", "--find-links .", "--require-hashes"} <= set(lines)
    digest = hashlib.sha256(engine.read_bytes()).hexdigest()
    assert f"engine==2.1 --hash=sha256:{digest}" in lines
    assert any(line.startswith("deeper[fast]==1.0 --hash=") for line in lines)
    assert any(line.startswith("edgephi[cpu]==1.0 --hash=") for line in lines)
    assert (wheelhouse.platform, wheelhouse.python, wheelhouse.glibc) == (PLATFORM, "3.11", "2.28")
    assert wheelhouse.extras == ("cpu",)
    assert wheelhouse.installed_bytes > 5000


def test_a_dependency_that_only_the_device_has(tmp_path: Path, index: Path) -> None:
    """pip follows the markers of the Python that it runs in, which is not the device's."""
    own = write_wheel(tmp_path, "edgephi", requires=["engine"], extras=["cpu"])
    write_wheel(index, "engine", requires=['hidden<2; python_version == "3.14"'])
    write_wheel(index, "hidden", "1.5", requires=['deeper; python_version == "3.14"'])
    write_wheel(index, "hidden", "2.0")
    write_wheel(index, "deeper")
    collected(tmp_path, own, "cpu", platform="linux-aarch64-cp314")
    assert {"hidden-1.5-py3-none-any.whl", "deeper-1.0-py3-none-any.whl"} <= names(tmp_path / "wheels")


def test_a_dependency_that_only_this_machine_has(tmp_path: Path, index: Path) -> None:
    here = f"3.{sys.version_info.minor}"
    own = write_wheel(tmp_path, "edgephi", requires=[f'mine; python_version == "{here}"'], extras=["cpu"])
    write_wheel(index, "mine")
    collected(tmp_path, own, "cpu", platform="linux-aarch64-cp319")
    assert names(tmp_path / "wheels") == {"edgephi-1.0-py3-none-any.whl", "requirements.txt"}


def test_of_one_version_the_wheel_for_the_oldest_glibc(tmp_path: Path, index: Path) -> None:
    own = write_wheel(tmp_path, "edgephi", requires=["engine"], extras=["cpu"])
    for minor in (17, 28, 34, 37):
        write_wheel(index, "engine", tag=f"cp311-cp311-manylinux_2_{minor}_aarch64")
    assert collected(tmp_path, own, "cpu").glibc == "2.17"


def test_no_wheel_for_a_newer_glibc_than_the_device_has(tmp_path: Path, index: Path) -> None:
    own = write_wheel(tmp_path, "edgephi", requires=["engine"], extras=["cpu"])
    write_wheel(index, "engine", "1.0", tag="cp311-cp311-manylinux_2_28_aarch64")
    write_wheel(index, "engine", "2.0", tag="cp311-cp311-manylinux_2_34_aarch64")
    collected(tmp_path, own, "cpu", platform="linux-aarch64-cp311-glibc2.31")
    assert "engine-1.0-cp311-cp311-manylinux_2_28_aarch64.whl" in names(tmp_path / "wheels")


@pytest.mark.parametrize("tag", [FOREIGN, "cp312-cp312-manylinux_2_28_aarch64", None])
def test_a_package_without_a_wheel_is_named(tmp_path: Path, index: Path, tag: str | None) -> None:
    own = write_wheel(tmp_path, "edgephi", requires=["click", "engine>=2"], extras=["cpu"])
    write_wheel(index, "click")
    if tag is not None:
        write_wheel(index, "engine", "2.0", tag=tag)
    with pytest.raises(NotSupportedError, match=f"{PLATFORM}: expected a wheel of engine>=2, found none"):
        collected(tmp_path, own, "cpu")
    assert not (tmp_path / "wheels").exists()


def test_packages_that_contradict_each_other(tmp_path: Path, index: Path) -> None:
    own = write_wheel(tmp_path, "edgephi", requires=["one", "two"], extras=["cpu"])
    write_wheel(index, "one", requires=["shared==1.0"])
    write_wheel(index, "two", requires=["shared==2.0"])
    for version in ("1.0", "2.0"):
        write_wheel(index, "shared", version)
    with pytest.raises(NotSupportedError, match=r"one 1\.0 depends on shared==1\.0; two 1\.0 depends on"):
        collected(tmp_path, own, "cpu")


def test_an_extra_that_edgephi_does_not_have(tmp_path: Path, index: Path) -> None:
    own = write_wheel(tmp_path, "edgephi", extras=["cpu"])
    with pytest.raises(NotSupportedError, match=r"expected an extra of edgephi 1\.0, found flash"):
        collected(tmp_path, own, "cpu", "flash")


def test_an_index_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_from_index(monkeypatch, "http://127.0.0.1:9/simple")
    own = write_wheel(tmp_path, "edgephi", requires=["engine"], extras=["cpu"])
    with pytest.raises(TransportError, match=f"{PLATFORM}: expected to reach the package index to get"):
        collected(tmp_path, own, "cpu")


def test_the_same_wheels_give_the_same_file(tmp_path: Path, index: Path) -> None:
    own = write_wheel(tmp_path, "edgephi", requires=["b", "a", "c"], extras=["cpu"])
    for name in "cab":
        write_wheel(index, name)
    contents = []
    for run in ("1", "2"):
        (tmp_path / run).mkdir()
        collected(tmp_path / run, own, "cpu")
        contents.append((tmp_path / run / "wheels/requirements.txt").read_text())
    assert contents[0] == contents[1]
    pinned = [line.split("==")[0] for line in contents[0].splitlines() if "==" in line]
    assert pinned == ["a", "b", "c", "edgephi[cpu]"]
