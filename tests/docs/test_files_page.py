"""docs/files.md says where edgephi writes, in a form that tests/guards/test_nothing_leaves.py reads."""

import re
from pathlib import Path

import click
import pytest

from edgephi.cli.main import cli
from tests.docs.files_page import EVERYBODY, PAGE, Place, read_places


def test_every_writer_is_a_command_or_an_option() -> None:
    context = click.Context(cli)
    known = {option for name in cli.list_commands(context) for option in _options(name, context)}
    known |= {*cli.list_commands(context), "cuda", "image:FILE", "/save"}
    for place in read_places():
        writers = set(re.findall("`([^`]+)`", place.writers))
        assert writers <= known, place
        assert writers or EVERYBODY in place.writers, place


def _options(command: str, context: click.Context) -> list[str]:
    found = cli.get_command(context, command)
    assert found is not None
    return [option for parameter in found.params for option in parameter.opts]


def test_every_place_says_how_to_remove_what_is_there() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) == len(read_places())
    for row in rows:
        place, what, writers, remove = (cell.strip() for cell in row.strip("|").split("|"))
        assert what
        assert remove or "goes at once" in what or place in ("`/dev/*`", "`/proc/**`"), row
        assert writers


@pytest.mark.parametrize(
    ("pattern", "path", "holds"),
    [
        ("BUNDLE/", "/work/phi", True),
        ("BUNDLE/", "/work/phi/model/weights", True),
        ("BUNDLE/", "/work/phi-other", False),
        (".BUNDLE.partial/", "/work/.phi.partial/model", True),
        (".BUNDLE.partial/", "/work/.other.partial/model", False),
        ("STORE/", "/anything", False),  # none was named
        ("~/.cache/pip/", "/home/me/.cache/pip/http", True),
        ("~/.cache/pip/", "/home/me/.cache/other", False),
        ("TMPDIR/tmp*/", "/tmp/tmpabc/file", True),
        ("TMPDIR/tmp*/", "/tmp/other", False),
        ("**/__pycache__/", "/usr/lib/python3/__pycache__/os.pyc", True),
        ("/sys/fs/cgroup/**/edgephi-probe-*/", "/sys/fs/cgroup/a/b/edgephi-probe-1/memory.max", True),
    ],
)
def test_a_place_holds_what_it_says(pattern: str, path: str, *, holds: bool) -> None:
    names = {"BUNDLE": Path("/work/phi"), "~": Path("/home/me"), "TMPDIR": Path("/tmp")}
    assert Place(pattern, "").holds(path, names) == holds
