"""Where credentials come from."""

import base64
import json
import os
from pathlib import Path

import pytest

from edgephi.errors import BadInputError
from edgephi.flash.oci.credentials import Credentials, find_credentials
from edgephi.flash.oci.reference import read_reference

REFERENCE = read_reference("registry.example:5000/acme/phi:1")
PACKED = base64.b64encode(b"ann:sesame:1").decode()


def config_file(folder: Path, config: object) -> dict[str, str]:
    """An environment in which docker would read that config."""
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "config.json").chmod(0o600)  # as docker does
    return {"DOCKER_CONFIG": str(folder)}


def helper(folder: Path, name: str, script: str) -> str:
    """A program docker-credential-NAME; returns the PATH that it is on."""
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_nobody(tmp_path: Path) -> None:
    assert find_credentials(REFERENCE, {}) is None
    assert find_credentials(REFERENCE, {"HOME": str(tmp_path)}) is None


def test_the_environment_comes_first(tmp_path: Path) -> None:
    environment = config_file(tmp_path, {"auths": {REFERENCE.registry: {"auth": PACKED}}})
    environment |= {"EDGEPHI_REGISTRY_USER": "bob", "EDGEPHI_REGISTRY_PASSWORD": "open"}
    assert find_credentials(REFERENCE, environment) == Credentials("bob", "open")


def test_half_of_it_is_a_mistake() -> None:
    with pytest.raises(BadInputError, match="EDGEPHI_REGISTRY_PASSWORD, found only one"):
        find_credentials(REFERENCE, {"EDGEPHI_REGISTRY_USER": "bob"})


@pytest.mark.parametrize(
    "key", ["registry.example:5000", "https://registry.example:5000/v1/", "http://registry.example:5000/"]
)
def test_what_docker_login_keeps(tmp_path: Path, key: str) -> None:
    environment = config_file(tmp_path, {"auths": {"other.example": {}, key: {"auth": PACKED}}})
    assert find_credentials(REFERENCE, environment) == Credentials("ann", "sesame:1")


def test_another_registry_learns_nothing(tmp_path: Path) -> None:
    environment = config_file(tmp_path, {"auths": {REFERENCE.registry: {"auth": PACKED}}})
    assert find_credentials(read_reference("registry.example/acme/phi:1"), environment) is None


def test_docker_keeps_its_own_hub_under_an_old_address(tmp_path: Path) -> None:
    environment = config_file(tmp_path, {"auths": {"https://index.docker.io/v1/": {"auth": PACKED}}})
    assert find_credentials(read_reference("docker.io/acme/phi:1"), environment) == Credentials(
        "ann", "sesame:1"
    )


def test_a_config_in_a_variable(tmp_path: Path) -> None:
    config = {"auths": {REFERENCE.registry: {"username": "ann", "password": "x"}}}
    assert find_credentials(REFERENCE, {"DOCKER_AUTH_CONFIG": json.dumps(config)}) == Credentials("ann", "x")


def test_the_file_of_podman(tmp_path: Path) -> None:
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {REFERENCE.registry: {"auth": PACKED}}}))
    (tmp_path / "auth.json").chmod(0o600)
    environment = {"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}
    assert find_credentials(REFERENCE, environment) == Credentials("ann", "sesame:1")


def test_an_identity_token(tmp_path: Path) -> None:
    environment = config_file(tmp_path, {"auths": {REFERENCE.registry: {"auth": "", "identitytoken": "t"}}})
    assert find_credentials(REFERENCE, environment) == Credentials(identity_token="t")


@pytest.mark.parametrize(
    "where", [{"credsStore": "safe"}, {"credHelpers": {"registry.example:5000": "safe"}}]
)
def test_a_helper_is_asked_for_this_registry(tmp_path: Path, where: dict[str, object]) -> None:
    script = f'test "$1" = get && cat > {tmp_path}/asked && echo \'{{"Username": "ann", "Secret": "s"}}\''
    environment = config_file(tmp_path, {"auths": {REFERENCE.registry: {}}, **where})
    environment["PATH"] = helper(tmp_path, "safe", script)
    assert find_credentials(REFERENCE, environment) == Credentials("ann", "s")
    assert (tmp_path / "asked").read_text() == REFERENCE.registry


def test_a_helper_may_give_a_token(tmp_path: Path) -> None:
    environment = config_file(tmp_path, {"credsStore": "safe"})
    environment["PATH"] = helper(tmp_path, "safe", 'echo \'{"Username": "<token>", "Secret": "s"}\'')
    assert find_credentials(REFERENCE, environment) == Credentials(identity_token="s")


def test_a_helper_that_has_nothing(tmp_path: Path) -> None:
    script = 'echo "credentials not found in native keychain"; exit 1'
    environment = config_file(
        tmp_path, {"credsStore": "safe", "auths": {REFERENCE.registry: {"auth": PACKED}}}
    )
    environment["PATH"] = helper(tmp_path, "safe", script)
    assert find_credentials(REFERENCE, environment) == Credentials("ann", "sesame:1")


@pytest.mark.parametrize(
    ("helper_name", "script", "found"),
    [
        ("safe", 'echo "the safe is locked"; exit 1', "found the safe is locked"),
        ("safe", "echo nonsense", "found something else"),
        ("missing", "", "no such program in PATH"),
        ("../safe", "", "a name that is no program's"),
    ],
)
def test_a_helper_that_fails(tmp_path: Path, helper_name: str, script: str, found: str) -> None:
    environment = config_file(tmp_path, {"credsStore": helper_name})
    environment["PATH"] = helper(tmp_path, "safe", script) if script else "/nowhere"
    with pytest.raises(BadInputError) as refused:
        find_credentials(REFERENCE, environment)
    assert found in refused.value.message


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": {"registry.example:5000": {"auth": "%%"}}}'])
def test_a_config_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadInputError, match=r"config\.json"):
        find_credentials(REFERENCE, {"DOCKER_CONFIG": str(tmp_path)})


def test_no_secret_in_a_traceback() -> None:
    assert "sesame" not in repr(Credentials("ann", "sesame", "sesame"))
