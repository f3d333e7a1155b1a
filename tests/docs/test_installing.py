"""How the documents install edgephi: in one line, from where it is, with what is used then."""

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from edgephi.declared.target import read_target
from edgephi.engines.facts.registry import facts_of
from tests.cli.conftest import MAIN
from tests.docs.test_reference import DOCUMENTS, ROOT
from tests.optimum_environment import VARIABLE, optimum_python

PAGES = sorted((ROOT / "docs" / "targets").glob("*.md"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
OPTIMUM_ALONE = [
    line
    for line in (ROOT / "tests/optimum_alone.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
LEFT_OUT = "torchvision"
# Prints what a package needs and does not find, in the environment that it is in.
MISSING = """
import sys
from importlib import metadata
from packaging.requirements import Requirement

def fits(needed):
    try:
        return needed.specifier.contains(metadata.version(needed.name))
    except metadata.PackageNotFoundError:
        return False

wanted, left_out = Requirement(sys.argv[1]), sys.argv[2]
assert fits(wanted)
for needed in map(Requirement, metadata.requires(wanted.name) or []):
    is_asked_for = not needed.marker or needed.marker.evaluate({"extra": ""})
    if needed.name != left_out and is_asked_for and not fits(needed):
        print(needed)
"""


def marked_block(name: str) -> str:
    """The shell block that `.ci/run` takes from the README."""
    found = re.search(rf"^<!-- ci: {name} -->\n(?:<!-- .* -->\n)*```sh\n(.*?)^```$", README, re.M | re.S)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("name", ["quickstart", "test"])
def test_each_of_the_two_commands_of_the_readme_is_one_line(name: str) -> None:
    (line,) = marked_block(name).splitlines()
    commands = [shlex.split(each) for each in line.split(" && ")]
    assert commands[0][:3] == ["python3", "-m", "venv"]
    # Each of the others runs from that environment, which nobody has made active.
    assert {each[0].partition("/")[0] for each in commands[1:]} == {commands[0][3]}


@pytest.mark.parametrize("name", OPTIMUM_ALONE)
def test_what_is_installed_alone_finds_all_else_that_it_needs(name: str) -> None:
    python = optimum_python()
    if python is None:
        pytest.skip(f"{VARIABLE} names no environment")
    missing = subprocess.run(
        [python, "-c", MISSING, name, LEFT_OUT], capture_output=True, text=True, check=True
    ).stdout
    assert missing == ""


def test_no_extra_brings_what_breaks_beside_another_build_of_torch() -> None:
    asked = {Requirement(each).name for extra in EXTRAS.values() for each in extra}
    assert not asked & {LEFT_OUT, *(Requirement(each).name for each in OPTIMUM_ALONE)}


def rows() -> dict[tuple[str, ...], str]:
    """The README's table of extras: those of a row, and what they are needed for."""
    table = README.partition("| extra | is needed for |\n|---|---|\n")[2].partition("\n\n")[0]
    found = {}
    for line in table.splitlines():
        extras, purpose = line.strip("| ").split(" | ")
        found[tuple(re.findall(r"`([\w-]+)`", extras))] = purpose
    return found


def test_the_readme_says_what_every_extra_is_for() -> None:
    named = [extra for row in rows() for extra in row]
    assert sorted(named) == sorted(EXTRAS.keys() - {"test"})


def test_the_readme_says_who_can_install_it_and_from_where() -> None:
    installing = README.partition("\n## Installing\n")[2].partition("\n## ")[0]
    for said in (
        "no package index",
        "(docs/files.md)",
        "git+",
        ".whl[cpu]'",
        "**macOS**",
        "**Windows**",
        "WSL",
        "python3-venv",
    ):
        assert said in installing


def installs(document: Path) -> Iterator[str]:
    """What `pip install` is told to install, wherever a document says so; outputs are the commands' own."""
    text = re.sub(r"^```console\n.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
    for found in re.finditer(r"pip install([^`\n&]*)", text):
        yield found[1].partition("  ")[0].strip()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_no_document_takes_edgephi_from_an_index(document: Path) -> None:
    """There, nothing of this name is ours."""
    wrong = [
        words
        for words in installs(document)
        if re.search(r"(^|[ '\"])edgephi", words) and "--no-index" not in words and "@ git+" not in words
    ]
    if document.name == "README.md":
        assert wrong.pop(0) == "edgephi"  # that this would be wrong
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_the_page_of_a_target_installs_what_it_uses(page: Path) -> None:
    """In the environment that it makes: what builds, and the engine that proves and runs."""
    first = re.search(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert first is not None
    environment, install, *uses = first[1].splitlines()
    assert environment.startswith("python3 -m venv .venv && . .venv/bin/activate ")
    target = read_target(page.stem)
    extra = facts_of(target.engine).provider(target.provider).extra
    assert shlex.split(install, comments=True) == ["pip", "install", f".[build,{extra}]"]
    assert [shlex.split(use)[:2] for use in uses] == [["edgephi", "build"], ["edgephi", "run"]]


class TestAnExtraAlone:
    """The README's table against environments that hold the packages of some extras and nothing else."""

    def environment(self, folder: Path, *extras: str) -> Path:
        """A folder for Python's path, with edgephi and all that these extras ask for."""
        folder.mkdir()
        for name in ("edgephi", "recipes", "targets"):
            (folder / name).symlink_to(ROOT / name)
        wanted = [*PROJECT["dependencies"], *(each for extra in extras for each in EXTRAS[extra])]
        done = set()
        while wanted:
            requirement = Requirement(wanted.pop())
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            package = importlib.metadata.distribution(requirement.name)
            if package.name in done:
                continue
            done.add(package.name)
            wanted += package.requires or []
            for name in {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}:
                if not (folder / name).exists():
                    (folder / name).symlink_to(str(package.locate_file(name)))
        return folder

    def ended(self, environment: Path, *words: object) -> tuple[int, bool]:
        """Exit code of `edgephi` there, and whether it misses a package."""
        done = subprocess.run(
            [sys.executable, "-S", "-c", MAIN, *map(str, words)],
            capture_output=True,
            text=True,
            cwd=environment.parent,
            env={**os.environ, "PYTHONPATH": str(environment), "HF_HUB_OFFLINE": "1"},
            check=False,
        )
        return done.returncode, "not installed" in done.stderr

    def test_without_any_a_machine_and_a_bundle_can_be_looked_at(
        self, demo_bundle: Path, tmp_path: Path
    ) -> None:
        bare = self.environment(tmp_path / "bare")
        for name in ("inspect", "verify"):
            assert self.ended(bare, name, demo_bundle) == (0, False), name
        assert self.ended(bare, "recipes") == self.ended(bare, "targets") == (0, False)
        for words in (("run", demo_bundle, "hello"), ("service", demo_bundle)):
            assert self.ended(bare, *words) == (3, True)
        assert self.ended(bare, "plan", "demo", "--target", "cpu") == (3, True)
        assert self.ended(bare, "keygen", "me") == (3, True)

    def test_a_device_runs_with_its_engine_alone(self, demo_bundle: Path, tmp_path: Path) -> None:
        device = self.environment(tmp_path / "device", "cpu")
        assert self.ended(device, "run", demo_bundle, "turn on the kitchen light") == (0, False)
        assert self.ended(device, "flash", demo_bundle, "store") == (0, False)
        assert self.ended(device, "status", "store") == (0, False)
        assert self.ended(device, "serve", demo_bundle) == (3, True)

    def test_keys_and_signatures_need_flash_alone(self, demo_bundle: Path, tmp_path: Path) -> None:
        releasing = self.environment(tmp_path / "releasing", "flash")
        bundle = shutil.copytree(demo_bundle, tmp_path / "bundle")
        assert self.ended(releasing, "keygen", "me") == (0, False)
        assert self.ended(releasing, "sign", bundle, "--key", "me.key") == (0, False)
        assert self.ended(releasing, "verify", bundle, "--signed-by", "me.pub") == (0, False)

    def test_a_plan_needs_build_alone(self, tmp_path: Path) -> None:
        laptop = self.environment(tmp_path / "laptop", "build")
        assert self.ended(laptop, "plan", "demo", "--target", "cpu") == (0, False)
        assert self.ended(laptop, "build", "demo", "--target", "cpu", "-o", "bundle") == (3, True)
