"""What commands say of the packages that are installed here."""

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Edgephi
from tests.installed_packages import install
from tests.installs import installs


def test_a_hint_names_the_extras_that_are_here_and_the_new_one(edgephi: Edgephi) -> None:
    pytest.importorskip("onnxruntime_genai")
    blocked = "import sys; sys.modules['asyncssh'] = None"
    done = edgephi("status", "ssh://box.invalid/srv/phi", before=blocked)
    assert done.returncode == 3
    assert installs(done.stderr, "build", "cpu", "flash"), done.stderr


def test_the_doctor_names_a_package_out_of_range_and_what_helps(tmp_path: Path, edgephi: Edgephi) -> None:
    install(tmp_path, {"huggingface-hub": "3.0.0"})
    said = edgephi("doctor", before=f"import sys; sys.path.insert(0, {str(tmp_path)!r})")
    assert said.returncode == 0, said.stderr
    assert re.search(r"^huggingface-hub +3\.0\.0 +>=1\.20,<3 \(build\)$", said.stdout, re.MULTILINE)
    assert "pip install" in said.stdout
