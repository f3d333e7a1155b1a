"""No run of the suite depends on luck, and what fails can be brought back."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A property that holds for most numbers, as one that was thought to hold for all; what was drawn is printed.
PROPERTY = """
import pathlib
from hypothesis import given, settings, strategies as st
from tests.property_profile import examples

drawn = []

@settings(max_examples=examples(30))
@given(number=st.integers(0, 1 << 32))
def test_most_numbers(number):
    drawn.append(number)
    assert number < {limit}

def test_show():
    pathlib.Path({shown!r}).write_text(repr(drawn))
"""


def run(folder: Path, *options: str, limit: int = 1 << 33) -> tuple[str, list[int]]:
    """What pytest prints for the property, and which numbers it was tried with."""
    folder.mkdir()
    shown = folder / "drawn"
    # The profile is loaded by the conftest of all our tests, so the property is given it, too.
    (folder / "conftest.py").write_text("from tests.conftest import *\n")
    (folder / "test_property.py").write_text(PROPERTY.format(limit=limit, shown=str(shown)))
    ours = ["-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *ours, "--rootdir", str(folder), *options, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert shown.exists(), done.stdout + done.stderr
    drawn: list[int] = eval(shown.read_text())
    return done.stdout, drawn


def test_every_run_draws_the_same_examples(tmp_path: Path) -> None:
    (_, first), (_, second) = run(tmp_path / "a"), run(tmp_path / "b")
    assert first == second
    assert len(first) == 30


def test_by_chance_others_are_drawn_and_more(tmp_path: Path) -> None:
    chance = "--hypothesis-profile=chance"
    (_, first), (_, second) = run(tmp_path / "a", chance), run(tmp_path / "b", chance)
    assert first != second
    assert len(first) == 300


@pytest.mark.parametrize("options", [[], ["--hypothesis-profile=chance"]], ids=["fixed", "chance"])
def test_a_failure_prints_its_example(tmp_path: Path, options: list[str]) -> None:
    printed, _ = run(tmp_path / "a", *options, limit=1000)
    assert "number=1000" in printed
    assert "reproduce_failure" in printed


def test_every_count_of_examples_grows_by_chance() -> None:
    """A count that is written as a plain number would stay small in the longer run."""
    plain = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted(ROOT.glob("tests/**/*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if "max_examples=" in line
        and "max_examples=examples(" not in line
        and not line.startswith("settings.")
    ]
    assert [each for each in plain if Path(__file__).name not in each] == []
