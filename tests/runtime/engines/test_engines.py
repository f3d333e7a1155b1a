"""Which engine a bundle may be opened with."""

from pathlib import Path

import pytest

from edgephi.bundle.manifest import TargetFacts
from edgephi.errors import BadBundleError, NotSupportedError
from edgephi.runtime.adapter import check_version, open_engine
from tests.bundle.tiny import tiny_manifest


@pytest.mark.parametrize(
    ("installed", "allowed"),
    [
        ("0.18.0", ">=0.18,<0.19"),
        ("0.18", ">=0.18.0"),
        ("0.18.3", ">= 0.18, < 0.19"),
        ("0.18.0", "==0.18"),
        ("0.18.1", "!=0.18.0"),
        ("2026.4.0.0", ">=2026.4"),
        ("0.18.0+cu12", "<=0.18"),
        ("0.18.0", ""),
    ],
)
def test_versions_inside(installed: str, allowed: str) -> None:
    check_version("engine", installed, allowed)


@pytest.mark.parametrize(
    ("installed", "allowed"),
    [
        ("0.19.0", ">=0.18,<0.19"),
        ("0.9.0", ">=0.18"),
        ("0.18.0", ">0.18"),
        ("0.18.0", "!=0.18"),
        ("1.0", "<1"),
    ],
)
def test_versions_outside(installed: str, allowed: str) -> None:
    with pytest.raises(NotSupportedError, match=f"needs engine {allowed}, found {installed}"):
        check_version("engine", installed, allowed)


@pytest.mark.parametrize("allowed", ["0.18", "~=0.18", "latest"])
def test_a_range_that_is_none(allowed: str) -> None:
    with pytest.raises(BadBundleError, match="expected a version range"):
        check_version("engine", "0.18", allowed)


@pytest.mark.parametrize("engine", ["session", "../engine", "os", ""])
def test_a_manifest_cannot_name_any_module(engine: str) -> None:
    manifest = tiny_manifest(target=TargetFacts("cpu", engine, "cpu", ()))
    with pytest.raises(NotSupportedError, match=r"this edgephi runs llama\.cpp, "):
        open_engine(Path("bundle"), manifest)
