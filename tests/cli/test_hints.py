"""Hints, followed: in a folder whose name is hard to quote, every command that one tells works as pasted."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.cli.inactive_environment import pasted, write_environment

FOLDER = '-it\'s a "new\nfolder" $HOME'
BUNDLE = "-my bundle's; touch pwned"

# What goes wrong; "again": after the commands of its hint it works.
ERRORS = {
    "a bundle into a folder that is missing": (
        """build demo --target cpu --verify off -o $'no such\\n/b'""",
        "again",
    ),
    "keys into a folder that is missing": ("""keygen "it's/not/there\"""", ""),
    "a page into a folder that is missing": ("""bench ./"$bundle" --html '$HOME "x"/page.html'""", ""),
    "errors that are in no bundle": ("""inspect 'no such' --tensors""", ""),
    "a store into a folder that is missing": ("""flash ./"$bundle" 'a & b/store'""", "again"),
    "an option is missing": ("""build demo --target cpu""", ""),
    "an unknown target": ("""plan demo --target 'no;such'""", ""),
    "an unknown recipe": ("""build demo --target cpu --recipe 'no such' -o x""", ""),
    "no bundle": ("""run 'no such' hi""", ""),
    "a model in place of a bundle": ("""run demo hi""", ""),
    "no prompt": ("""run ./"$bundle" ''""", ""),
    "no store": ("""status "./-it's a store\"""", "again"),
    "a key that others may read": ("""sign ./"$bundle" --key "./-my keys'/me.key\"""", "again"),
    "a store in the bundle": ("""flash ./"$bundle" ./"$bundle\"""", ""),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demo_bundle: Path) -> Path:
    """The working folder, with an environment, a bundle and a key in it."""
    made = tmp_path_factory.mktemp("hints") / FOLDER
    made.mkdir()
    write_environment(made / ".venv")
    shutil.copytree(demo_bundle, made / BUNDLE)
    (made / "-my keys'").mkdir()
    assert pasted(""".venv/bin/edgephi keygen "./-my keys'/me" """, made).returncode == 0
    (made / "-my keys'/me.key").chmod(0o644)
    return made


def commands(hint: str) -> list[str]:
    """The commands in a hint: between backticks, or all of it."""
    found = re.findall(r"`([^`]*)`", hint) or [hint] * hint.startswith((".venv/", "mkdir "))
    return [re.sub(r"\bBUNDLE\b", lambda _: "./" + shlex.quote(BUNDLE), command) for command in found]


@pytest.mark.parametrize("kind", ERRORS)
def test_the_commands_of_a_hint_work_as_pasted(folder: Path, kind: str) -> None:
    arguments, then = ERRORS[kind]
    line = f"bundle={shlex.quote(BUNDLE)}; .venv/bin/edgephi {arguments}"
    failed = pasted(line, folder)
    assert failed.returncode in (2, 3, 4), failed
    error, hint = failed.stderr.splitlines()[-2:]
    assert error.startswith("error: ")
    told = commands(hint.removeprefix("hint: "))
    for command in told:
        done = pasted(command, folder)
        assert done.returncode == 0 or done.stderr.startswith("Usage: edgephi "), (command, done)
    if then:
        assert told
        again = pasted(line, folder)
        assert again.returncode == 0, again
    assert not list(folder.rglob("pwned"))
    assert pasted(f".venv/bin/edgephi verify ./{shlex.quote(BUNDLE)}", folder).returncode == 0
