"""Where a bundle is expected, a model is told from a mistake, and what makes a bundle of it is said."""

import shlex
from pathlib import Path

import pytest

from edgephi.errors import BadBundleError
from tests.cli.conftest import Edgephi, is_one_error
from tests.tiny_checkpoint import write_tiny_checkpoint

NO_BUNDLE = BadBundleError.exit_code


@pytest.mark.parametrize(
    ("model", "bundle"),
    [
        ("microsoft/Phi-4-mini-instruct", "phi-4-mini-instruct-bundle"),
        ("phi-3.5-mini", "phi-3.5-mini-bundle"),
        ("demo", "demo-bundle"),
    ],
)
def test_a_model_gets_the_commands_that_build_and_run_it(
    edgephi: Edgephi, tmp_path: Path, model: str, bundle: str
) -> None:
    done = edgephi("run", model, "hello", cwd=tmp_path)
    assert is_one_error(done, NO_BUNDLE)
    build, run = (shlex.split(command) for command in done.stderr.splitlines()[1].split("`")[1::2])
    assert build[-6:] == ["build", model, "--target", "auto", "--output", bundle]
    assert run[-3:] == ["run", bundle, "your question"]


def test_the_command_that_was_asked_for_is_what_follows_the_build(edgephi: Edgephi, tmp_path: Path) -> None:
    for command in ("chat", "serve", "inspect", "verify"):
        done = edgephi(command, "demo", cwd=tmp_path)
        assert is_one_error(done, NO_BUNDLE)
        assert done.stderr.endswith(f" {command} demo-bundle`\n")


def test_a_checkpoint_is_said_to_be_one(edgephi: Edgephi, tmp_path: Path) -> None:
    done = edgephi("run", write_tiny_checkpoint(tmp_path / "model"), "hello")
    assert is_one_error(done, NO_BUNDLE)
    assert "expected a bundle, found a checkpoint\n" in done.stderr


def test_a_folder_that_is_there_is_not_the_one_that_the_bundle_is_written_to(
    edgephi: Edgephi, tmp_path: Path
) -> None:
    (tmp_path / "demo-bundle").mkdir()
    (tmp_path / "demo-bundle-2").symlink_to("nowhere")
    assert " --output demo-bundle-3`" in edgephi("run", "demo", "hello", cwd=tmp_path).stderr


@pytest.mark.parametrize("path", ["nowhere", "bundles/phi", "/owner/name", "../demo", "a/b/c"])
def test_a_path_to_nothing_is_no_model(edgephi: Edgephi, tmp_path: Path, path: str) -> None:
    (tmp_path / "bundles").mkdir()
    done = edgephi("run", path, "hello", cwd=tmp_path)
    assert is_one_error(done, NO_BUNDLE)
    assert "no such folder\n" in done.stderr
