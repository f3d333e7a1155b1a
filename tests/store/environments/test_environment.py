"""What runs a generation: found on the device or made from its wheels, and removed with it."""

import dataclasses
import platform
import sys
from pathlib import Path

import pytest

from edgephi.bundle.chunks import FileEntry
from edgephi.bundle.manifest import Manifest, Wheelhouse
from edgephi.errors import NotSupportedError
from edgephi.store.disk.layout import Layout
from edgephi.store.environments.environment import choose_runtime
from edgephi.store.environments.folders import collect_environments, link, prepare_folder
from edgephi.store.environments.wheels import base_interpreter
from tests.bundle.tiny import tiny_manifest
from tests.store.conftest import install

PYTHON = f"3.{sys.version_info.minor}"
HERE = f"linux-{platform.machine()}-cp3{sys.version_info.minor}"
OTHER_ENGINE = {"onnxruntime-genai": ">=9,<10"}
"""Versions that no machine has yet."""


def with_wheels(name: str, python: str = PYTHON, glibc: str = "2.17") -> Manifest:
    """A manifest of a bundle with wheels for one platform, whose engine is nowhere installed."""
    wheelhouse = Wheelhouse(name, python, glibc, ("cpu",), 1000)
    manifest = tiny_manifest()
    requirements = FileEntry(wheelhouse.requirements, 3, "f" * 64)
    return dataclasses.replace(
        manifest,
        files=(*manifest.files, requirements),
        requires=dataclasses.replace(manifest.requires, engines=OTHER_ENGINE),
        wheels=(wheelhouse,),
    )


class TestChoosing:
    def test_a_python_that_has_the_engine_comes_first(self, tmp_path: Path) -> None:
        chosen = choose_runtime(Layout(tmp_path), tiny_manifest())
        assert chosen.interpreter == sys.executable and chosen.needs_bytes == 0

    def test_else_wheels_for_this_very_platform(self, tmp_path: Path) -> None:
        chosen = choose_runtime(Layout(tmp_path), with_wheels(HERE))
        assert chosen.interpreter is None
        assert chosen.wheelhouse is not None and chosen.wheelhouse.platform == HERE
        assert chosen.needs_bytes == 1000

    @pytest.mark.parametrize(
        ("name", "python", "glibc"),
        [("linux-riscv-cp311", PYTHON, "2.17"), (HERE, "3.99", "2.17"), (HERE, PYTHON, "2.99")],
    )
    def test_wheels_for_another_one_do_not_help(
        self, tmp_path: Path, name: str, python: str, glibc: str
    ) -> None:
        with pytest.raises(NotSupportedError) as refused:
            choose_runtime(Layout(tmp_path), with_wheels(name, python, glibc))
        assert "the bundle needs onnxruntime-genai >=9,<10" in refused.value.message
        assert f"the bundle's wheels are for {name}" in refused.value.hint

    @pytest.mark.parametrize("place", ["sys.executable", "PATH"])
    def test_an_environment_of_the_store_is_no_python_of_the_device(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
    ) -> None:
        """`ROOT/envs/edgephi flash` runs in that of another bundle, which nobody may have signed."""
        python = tmp_path / "store" / "envs" / ("0" * 64) / "bin" / "python3"
        python.parent.mkdir(parents=True)
        python.write_text('#!/bin/sh\nexec echo \'{"version": "9.0", "problems": {"cpu": null}}\'\n')
        python.chmod(0o755)
        (tmp_path / "link").symlink_to("store")
        seen = tmp_path / "link" / python.relative_to(tmp_path / "store")
        asked = choose_runtime(Layout(tmp_path / "store"), with_wheels(HERE), interpreter=str(seen))
        assert asked.interpreter == str(seen), "it has the engine"
        if place == "PATH":
            monkeypatch.setenv("PATH", str(seen.parent))
        else:
            monkeypatch.setattr(sys, "executable", str(seen))
        chosen = choose_runtime(Layout(tmp_path / "store"), with_wheels(HERE))
        assert chosen.interpreter is None
        assert chosen.wheelhouse is not None and chosen.base == base_interpreter()
        prepare_folder(Layout(tmp_path / "store"))
        assert choose_runtime(Layout(tmp_path / "another"), with_wheels(HERE)).interpreter is None

    def test_an_edgephi_from_before_its_files_lay_in_rooms_is_asked_by_the_names_it_has(
        self, tmp_path: Path
    ) -> None:
        older = {
            "edgephi/__init__.py": "",
            "edgephi/manifest.py": "decode_manifest = len\n",
            "edgephi/cli/run.py": "",
            "edgephi/runtime/availability.py": (
                "def main(engine, providers):\n"
                "    problems = dict.fromkeys(providers, 'too old')\n"
                "    return {'version': '0.18.0', 'problems': problems, 'details': ''}\n"
            ),
        }
        for name, text in older.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {base_interpreter()} "$@"\n')
        python.chmod(0o755)
        with pytest.raises(NotSupportedError, match="onnxruntime-genai on cpu: too old"):
            choose_runtime(Layout(tmp_path / "store"), tiny_manifest(), interpreter=str(python))

    def test_nothing_is_written(self, tmp_path: Path) -> None:
        choose_runtime(Layout(tmp_path), with_wheels(HERE))
        assert list(tmp_path.iterdir()) == []


class TestCollecting:
    def test_what_no_generation_has_goes(self, first: Path, tmp_path: Path) -> None:
        root = tmp_path / "store"
        layout = Layout(root)
        digest = install(first, root).digest
        prepare_folder(layout)
        needed, unneeded = "a" * 64, "0" * 64
        for name in (needed, unneeded, ".tmp-" + "1" * 64):
            (layout.environments / name / "lib").mkdir(parents=True)
            (layout.environments / name / "lib" / "file").write_bytes(bytes(9000))
        link(layout, digest, needed)
        link(layout, "b" * 64, unneeded)
        assert collect_environments(layout, [digest], dry_run=True) >= 18_000
        assert len(list(layout.environments.iterdir())) == 5
        assert collect_environments(layout, [digest]) >= 18_000
        assert {path.name for path in layout.environments.iterdir()} == {"edgephi", "of", needed}
        assert [path.name for path in (layout.environments / "of").iterdir()] == [digest]
