"""Secrets that others can read are not taken, wherever edgephi reads one from a file."""

import base64
import json
import os
import threading
from pathlib import Path

import pytest

from edgephi.errors import BadInputError, EdgephiError
from edgephi.flash.oci.credentials import find_credentials
from edgephi.flash.oci.reference import read_reference
from tests.cli.conftest import Edgephi, is_one_error
from tests.cli.conftest import edgephi as edgephi  # noqa: PLC0414 - a fixture

OPEN_TO_OTHERS = [0o644, 0o604, 0o602, 0o777, 0o641]


def docker_config(folder: Path, mode: int, **config: object) -> dict[str, str]:
    """The environment in which docker would read that config."""
    file = folder / "config.json"
    file.write_text(json.dumps(config))
    file.chmod(mode)
    return {"DOCKER_CONFIG": str(folder)}


def test_serve_takes_no_api_key_that_others_can_read(
    edgephi: Edgephi, demo_bundle: Path, tmp_path: Path
) -> None:
    key = tmp_path / "my key"
    key.write_text("correct-horse")
    key.chmod(0o644)
    done = edgephi("serve", demo_bundle, "--port", 0, "--api-key-file", key)
    assert is_one_error(done, 4)
    assert "that only its owner and group can read (mode 0640), found mode 0644" in done.stderr
    assert f"chmod 600 '{key}'" in done.stderr
    assert "correct-horse" not in done.stderr


@pytest.mark.parametrize("mode", [*OPEN_TO_OTHERS, 0o640])
def test_a_registrys_password_is_not_taken_from_a_file_that_others_can_read(
    tmp_path: Path, mode: int
) -> None:
    auth = base64.b64encode(b"ann:sesame").decode()
    environment = docker_config(tmp_path, mode, auths={"registry.example": {"auth": auth}})
    with pytest.raises(BadInputError, match=f"found mode {mode:04o}"):
        find_credentials(read_reference("registry.example/phi:1"), environment)


def test_a_config_without_a_secret_may_be_read_by_all(tmp_path: Path) -> None:
    environment = docker_config(tmp_path, 0o644, auths={"other.example": {"auth": "eDp5"}})
    assert find_credentials(read_reference("registry.example/phi:1"), environment) is None


@pytest.mark.parametrize(("mode", "group_may"), [(0o600, False), (0o400, False), (0o440, True)])
def test_one_that_nobody_else_can_read_is_taken(tmp_path: Path, mode: int, group_may: bool) -> None:
    from edgephi.guards.secret_file import read_secret_file

    file = tmp_path / "key"
    file.write_bytes(b"secret")
    file.chmod(mode)
    assert read_secret_file(file, "a key", group_may=group_may) == b"secret"


@pytest.mark.parametrize(
    ("mode", "group_may"),
    [*((mode, True) for mode in OPEN_TO_OTHERS), (0o640, False), (0o620, False), (0o644, False)],
)
def test_one_that_others_can_read_or_change_is_not(tmp_path: Path, mode: int, group_may: bool) -> None:
    from edgephi.guards.secret_file import check_secret_file, read_secret_file

    file = tmp_path / "key"
    file.write_bytes(b"secret")
    file.chmod(mode)
    for take in (read_secret_file, check_secret_file):
        with pytest.raises(BadInputError, match=f"found mode {mode:04o}"):
            take(file, "a key", group_may=group_may)


def test_a_pipe_is_taken(tmp_path: Path) -> None:
    """As from `--api-key-file <(pass show key)`."""
    from edgephi.guards.secret_file import read_secret_file

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(b"secret"))
    writer.start()
    assert read_secret_file(pipe, "a key") == b"secret"
    writer.join()


def test_one_without_end_is_not_read_to_it() -> None:
    from edgephi.guards.secret_file import read_secret_file

    with pytest.raises(EdgephiError, match="more than 1048576 bytes"):
        read_secret_file(Path("/dev/zero"), "a key")
