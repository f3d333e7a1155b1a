"""What is installed beside edgephi, read from metadata as pip wrote it, and what hints make of it."""

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from edgephi.commands import install_command
from edgephi.installed.extras import OutOfRange, installed_extras, out_of_range, with_installed
from tests.installed_packages import install
from tests.installs import installs

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BUILD_AND_CPU = {
    "gguf": "0.19.0",
    "huggingface-hub": "1.21.0",
    "jinja2": "3.1.6",
    "numba": "0.66.0",
    "numpy": "2.4.0",
    "onnx": "1.20.0",
    "onnxruntime": "1.32.0",
    "onnxruntime-genai": "0.18.0",
    "packaging": "26.0",
    "pillow": "13.0.0",
    "threadpoolctl": "3.6.0",
    "tokenizers": "0.22.2",
}


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages in which edgephi is, with what it really asks for, and nothing else."""
    install(tmp_path, {"edgephi": "0.1.0"}, metadata.requires("edgephi"))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


class TestInstalled:
    def test_a_hint_names_the_extras_that_are_here_and_the_new_one(self, alone: Path) -> None:
        assert installed_extras() == []
        assert installs(install_command("mlx"), "mlx")
        install(alone, BUILD_AND_CPU)
        assert with_installed(["mlx"]) == ["build", "cpu", "mlx", "vision"]
        assert "[build,cpu,mlx,vision]" in install_command("mlx")

    def test_an_extra_is_here_when_all_of_its_packages_are(self, alone: Path) -> None:
        install(alone, {name: version for name, version in BUILD_AND_CPU.items() if name != "onnx"})
        assert installed_extras() == ["cpu", "vision"]

    def test_the_packages_of_two_extras_that_cannot_stand_side_by_side(self, alone: Path) -> None:
        install(alone, BUILD_AND_CPU)
        assert with_installed(["cuda"]) == ["build", "cuda", "vision"]

    def test_without_metadata_nothing_is_known(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """As in the agent, which runs from memory."""
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        assert (installed_extras(), out_of_range(), with_installed(["trust"])) == ([], [], ["trust"])


class TestRange:
    def test_what_is_inside_is_not_named(self, alone: Path) -> None:
        install(alone, BUILD_AND_CPU)
        assert out_of_range() == []

    @pytest.mark.parametrize(("version", "is_wrong"), [("1.19.0", True), ("1.20", False), ("3.0", True)])
    def test_a_package_on_either_side(self, alone: Path, version: str, *, is_wrong: bool) -> None:
        install(alone, {"huggingface-hub": version})
        wrong = [OutOfRange("huggingface-hub", version, ">=1.20,<3", "build")]
        assert out_of_range() == (wrong if is_wrong else [])

    def test_every_extra_that_asks_for_it_is_named(self, alone: Path) -> None:
        install(alone, {"onnxruntime": "1.33.0", "click": "8.0.0"})
        found = [(each.package, each.extra) for each in out_of_range()]
        asking = ("cpu", "gguf-vision", "qnn")
        assert found == [("click", ""), *(("onnxruntime", extra) for extra in asking)]

    def test_all_that_the_project_asks_for_is_read(self, alone: Path) -> None:
        """With a version below every range each package is out of it, but for those of other platforms."""
        asked = [*PROJECT["dependencies"]]
        for extra, requirements in PROJECT["optional-dependencies"].items():
            asked += requirements if extra not in ("all", "test") else []
        names = {re.match(r"[\w.-]+", each)[0] for each in asked}  # type: ignore[index]
        install(alone, dict.fromkeys(names, "0"))
        assert {each.package for each in out_of_range()} >= names - {"onnxruntime-qnn"}
