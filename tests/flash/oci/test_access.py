"""Registries that ask who we are: with a password, and with a token of another server."""

import base64
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgephi.errors import BadInputError
from edgephi.flash.oci.credentials import PASSWORD_VARIABLE, USER_VARIABLE
from edgephi.flash.oci.pull import pull_bundle
from edgephi.flash.oci.push import push_bundle
from edgephi.flash.oci.reference import read_reference
from edgephi.steps import silent
from tests.cli.conftest import Edgephi, is_one_error
from tests.flash.oci.conftest import MakeBundle, folder_bytes
from tests.flash.oci.registry_server import PASSWORD, USER, RegistryServer, serve_registry
from tests.flash.oci.token_server import TokenServer, serve_tokens

LEEWAY_SECONDS = 60  # for how long Docker's registry believes a token that has ended
PACKED = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def test_nobody_is_not_let_in(guarded: RegistryServer, edgephi: Edgephi, make_bundle: MakeBundle) -> None:
    done = edgephi("push", make_bundle(), f"{guarded.host}/phi:1")
    assert is_one_error(done, 4), done.stderr
    assert "HTTP status 401" in done.stderr
    assert f"docker login {guarded.host}" in done.stderr


def test_a_wrong_password(guarded: RegistryServer, edgephi: Edgephi, make_bundle: MakeBundle) -> None:
    environment = {**os.environ, USER_VARIABLE: USER, PASSWORD_VARIABLE: "wrong-and-secret"}
    done = edgephi("push", make_bundle(), f"{guarded.host}/phi:1", env=environment)
    assert is_one_error(done, 4), done.stderr
    assert "secret" not in done.stderr


def test_from_the_environment(
    guarded: RegistryServer, edgephi: Edgephi, make_bundle: MakeBundle, name: str, tmp_path: Path
) -> None:
    environment = {**os.environ, USER_VARIABLE: USER, PASSWORD_VARIABLE: PASSWORD}
    bundle = make_bundle()
    done = edgephi("push", bundle, f"{guarded.host}/{name}:1", env=environment)
    assert done.returncode == 0, done.stderr
    done = edgephi("pull", f"oci://{guarded.host}/{name}:1", "-o", tmp_path / "out", env=environment)
    assert done.returncode == 0, done.stderr
    assert folder_bytes(tmp_path / "out") == folder_bytes(bundle)


def test_from_what_docker_login_has_kept(
    guarded: RegistryServer,
    make_bundle: MakeBundle,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auths": {guarded.host: {"auth": PACKED}}}))
    (tmp_path / "config.json").chmod(0o600)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    push_bundle(make_bundle(), read_reference(f"{guarded.host}/{name}:1"), silent)


def test_from_a_helper(
    guarded: RegistryServer,
    make_bundle: MakeBundle,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    answer = json.dumps({"ServerURL": guarded.host, "Username": USER, "Secret": PASSWORD})
    program = tmp_path / "docker-credential-test"
    program.write_text(f"#!/bin/sh\ntest \"$(cat)\" = {guarded.host} && echo '{answer}'\n")
    program.chmod(0o755)
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {guarded.host: "test"}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    push_bundle(make_bundle(), read_reference(f"{guarded.host}/{name}:1"), silent)


@contextmanager
def registry_with_tokens(folder: Path, tokens: TokenServer) -> Iterator[RegistryServer]:
    """A registry that believes the tokens of another server."""
    (folder / "certificate.pem").write_bytes(tokens.certificate)
    settings = {
        "realm": tokens.address,
        "service": tokens.service,
        "issuer": tokens.issuer,
        "rootcertbundle": str(folder / "certificate.pem"),
    }
    with serve_registry(folder, token=settings) as registry:
        yield registry


def test_with_a_token_for_a_password(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = make_bundle()
    monkeypatch.setenv(USER_VARIABLE, USER)
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    with serve_tokens(USER, PASSWORD) as tokens, registry_with_tokens(tmp_path, tokens) as registry:
        reference = read_reference(f"{registry.host}/phi:1")
        push_bundle(bundle, reference, silent)
        pull_bundle(reference, tmp_path / "out", silent)
        # One token for reading first, one for writing, one for the pull: none is asked for twice.
        actions = [scope.removeprefix("repository:phi:").split(",") for scope in tokens.scopes]
        assert list(map(set, actions)) == [{"pull"}, {"pull", "push"}, {"pull"}]
    assert folder_bytes(tmp_path / "out") == folder_bytes(bundle)


def test_with_an_identity_token(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serve_tokens(USER, PASSWORD) as tokens, registry_with_tokens(tmp_path, tokens) as registry:
        entry = {"identitytoken": tokens.identity_token}
        monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps({"auths": {registry.host: entry}}))
        push_bundle(make_bundle(), read_reference(f"{registry.host}/phi:1"), silent)
        assert len(tokens.scopes) == 2


def test_a_token_that_ends_in_the_middle(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The registry says 401 when it is over, and the next token is fetched."""
    monkeypatch.setenv(USER_VARIABLE, USER)
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    with (
        serve_tokens(USER, PASSWORD, lives_seconds=2 - LEEWAY_SECONDS) as tokens,
        registry_with_tokens(tmp_path, tokens) as registry,
    ):
        reference = read_reference(f"{registry.host}/phi:1")
        bundle = make_bundle()

        @contextmanager
        def slow_step(_title: str, _size: int) -> Iterator[object]:
            yield lambda _sent: time.sleep(0.2)

        push_bundle(bundle, reference, slow_step)  # type: ignore[arg-type]
        assert len(tokens.scopes) > 2
        pull_bundle(reference, tmp_path / "out", silent)
    assert folder_bytes(tmp_path / "out") == folder_bytes(bundle)


def test_a_wrong_password_at_the_token_server(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(USER_VARIABLE, USER)
    monkeypatch.setenv(PASSWORD_VARIABLE, "wrong")
    with (
        serve_tokens(USER, PASSWORD) as tokens,
        registry_with_tokens(tmp_path, tokens) as registry,
        pytest.raises(BadInputError, match="HTTP status 401"),
    ):
        push_bundle(make_bundle(), read_reference(f"{registry.host}/phi:1"), silent)


def own_address() -> str:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: asks which way it would go
        except OSError:
            pytest.skip("needs a network address besides 127.0.0.1")
        return str(probe.getsockname()[0])


def test_plain_http_only_where_it_was_asked_for(
    tmp_path: Path, edgephi: Edgephi, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv(USER_VARIABLE, USER)
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    bundle = make_bundle()
    with serve_registry(tmp_path / "registry", address=own_address()) as registry:
        done = edgephi("push", bundle, f"{registry.host}/phi:1")
        assert is_one_error(done, 6), done.stderr
        assert "--insecure" in done.stderr
        assert registry.requests("HEAD") == []
        done = edgephi("push", bundle, f"{registry.host}/phi:1", "--insecure")
        assert done.returncode == 0, done.stderr
        done = edgephi("pull", f"oci://{registry.host}/phi:1", "--insecure", "-o", tmp_path / "out")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_no_proxy_is_asked_for_a_registry_on_this_machine(
    tmp_path: Path, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    try:
        socket.create_server(
            (address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET
        ).close()
    except OSError:
        pytest.skip(f"needs the address {address}")
    with serve_registry(tmp_path / "registry", address=address) as registry:
        push_bundle(make_bundle(), read_reference(f"{registry.host}/phi:1"), silent)


@pytest.mark.parametrize("registry", ["999.999.999.999:1", "[::g]:1", "[1:2]:3", "no.such.host.invalid"])
def test_a_registry_that_is_none(edgephi: Edgephi, make_bundle: MakeBundle, registry: str) -> None:
    done = edgephi("push", make_bundle(), f"{registry}/phi:1")
    assert done.returncode in (2, 6), done.stderr
    assert is_one_error(done, done.returncode), done.stderr


def test_a_password_is_not_sent_in_the_clear_to_a_token_server(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A registry could name any server as the one to give the password to."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv(USER_VARIABLE, USER)
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    with (
        serve_tokens(USER, PASSWORD, address=own_address()) as tokens,
        registry_with_tokens(tmp_path, tokens) as registry,
    ):
        with pytest.raises(BadInputError, match="expected an https address of its token server"):
            push_bundle(make_bundle(), read_reference(f"{registry.host}/phi:1"), silent)
        assert tokens.scopes == []
