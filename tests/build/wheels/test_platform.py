"""The names of platforms, and what they mean to pip."""

import platform
import sys

import pytest
from packaging.markers import default_environment
from packaging.tags import sys_tags

from edgephi.build.wheels.platform import read_platform
from edgephi.errors import NotSupportedError, UsageError

HERE = f"linux-{platform.machine()}-cp3{sys.version_info.minor}"


def test_a_name_says_machine_python_and_glibc() -> None:
    read = read_platform("linux-aarch64-cp311")
    assert (read.machine, read.python, read.python_version, read.glibc) == ("aarch64", 11, "3.11", 36)
    assert read_platform("linux-x86_64-cp312-glibc2.31").glibc == 31


def test_a_python_that_is_newer_than_us_has_the_newest_glibc_that_we_know() -> None:
    assert read_platform("linux-x86_64-cp319").glibc == read_platform("linux-x86_64-cp313").glibc == 41


def test_old_glibc_comes_first_with_its_older_name_before_it() -> None:
    tags = read_platform("linux-aarch64-cp311").tags
    assert tags[:2] == ("manylinux1_aarch64", "manylinux_2_5_aarch64")
    assert tags.index("manylinux2014_aarch64") + 1 == tags.index("manylinux_2_17_aarch64")
    assert tags[-1] == "manylinux_2_36_aarch64"


@pytest.mark.skipif(sys.platform != "linux", reason="compares with this machine's own Python, on Linux")
def test_this_machines_own_platform_asks_for_what_its_python_takes() -> None:
    own = {tag.platform for tag in sys_tags()}
    assert len(own & set(read_platform(HERE).tags)) >= 14  # glibc 2.17 and older, at the least


@pytest.mark.skipif(sys.platform != "linux", reason="compares with this machine's own Python, on Linux")
def test_this_machines_own_markers_are_those_of_its_python() -> None:
    own = {key: str(value) for key, value in default_environment().items()}
    for markers in read_platform(HERE).markers:
        assert markers.keys() == own.keys()
        same = ("implementation_name", "os_name", "platform_machine", "platform_python_implementation")
        for key in (*same, "platform_system", "python_version", "sys_platform"):
            assert markers[key] == own[key]


@pytest.mark.parametrize(
    "name",
    ["", "linux", "linux-aarch64", "linux-armv7l-cp311", "macos-arm64-cp312", "linux-aarch64-cp27",
     "linux-aarch64-cp311-musl", "linux-aarch64-cp311-glibc3.1", "../linux-aarch64-cp311",
     "linux-aarch64-311"],
)  # fmt: skip
def test_what_is_no_platform(name: str) -> None:
    with pytest.raises(UsageError, match="expected a platform such as linux-aarch64-cp311"):
        read_platform(name)


def test_a_python_that_is_too_old() -> None:
    with pytest.raises(NotSupportedError, match=r"expected Python 3\.11 or newer, found 3\.10"):
        read_platform("linux-aarch64-cp310")
