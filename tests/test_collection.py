"""pytest sees every test that lies here: a folder that it passes by fails in silence."""

from fnmatch import fnmatch
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def test_no_folder_with_tests_is_passed_by(pytestconfig: pytest.Config) -> None:
    ignored: list[str] = pytestconfig.getini("norecursedirs")
    holding = {
        folder for file in TESTS.rglob("test_*.py") for folder in file.parents if TESTS in folder.parents
    }
    assert len(holding) > 20
    hidden = [folder for folder in holding if any(fnmatch(folder.name, pattern) for pattern in ignored)]
    assert hidden == []


def test_every_file_of_tests_is_called_as_one() -> None:
    """What holds tests under another name would never run."""
    named = set(TESTS.rglob("test_*.py"))
    others = [file for file in TESTS.rglob("*.py") if file not in named and "\ndef test_" in file.read_text()]
    assert others == []
