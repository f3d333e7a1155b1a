"""Who we are to a registry: from the environment, or from where `docker login` and `podman login` keep it.

Sources, the first that knows the registry wins:

1. EDGEPHI_REGISTRY_USER and EDGEPHI_REGISTRY_PASSWORD, for the registry of the command line.
2. DOCKER_AUTH_CONFIG, the text of a docker config.json (as GitLab's CI sets it).
3. The file REGISTRY_AUTH_FILE (podman, skopeo).
4. config.json in the folder DOCKER_CONFIG, else in ~/.docker.

In a config, `credHelpers` and `credsStore` name a program docker-credential-NAME that is asked; else the
entry under `auths` holds the secret. Formats: https://docs.docker.com/reference/cli/docker/login and
https://github.com/docker/docker-credential-helpers.
"""

import base64
import binascii
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgephi.commands import shell_command
from edgephi.errors import BadInputError
from edgephi.flash.oci.reference import Reference
from edgephi.guards.secret_file import check_secret_file
from edgephi.processes.child_process import run_child

USER_VARIABLE = "EDGEPHI_REGISTRY_USER"
PASSWORD_VARIABLE = "EDGEPHI_REGISTRY_PASSWORD"  # noqa: S105 - the name of a variable
_HELPER_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_HELPER_SECONDS = 60
_TOKEN_USER = "<token>"  # noqa: S105 - what a helper gives as a user's name with an identity token
# Docker keeps the credentials of its hub under the address that its first version had.
_DOCKER_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")


@dataclass(frozen=True)
class Credentials:
    """A user with a password, or an identity token that buys access tokens."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


def find_credentials(reference: Reference, environment: Mapping[str, str]) -> Credentials | None:
    """The credentials for the registry of `reference`, None when there are none: then we are nobody.

    Raises BadInputError for a config that cannot be read, and for a helper that fails.
    """
    user, password = environment.get(USER_VARIABLE, ""), environment.get(PASSWORD_VARIABLE, "")
    if user and password:
        return Credentials(user, password)
    if user or password:
        raise BadInputError(
            f"expected both {USER_VARIABLE} and {PASSWORD_VARIABLE}, found only one of them",
            hint=f"set both, or none to use what `{shell_command('docker', 'login')}` has kept",
        )
    for where, config in _configs(environment):
        if (found := _in_config(config, reference, where, environment)) is not None:
            return found
    return None


def _configs(environment: Mapping[str, str]) -> Iterator[tuple[str | Path, dict[str, Any]]]:
    """Every config that there is, with what to call it in an error: its path when it is a file."""
    if text := environment.get("DOCKER_AUTH_CONFIG"):
        yield "DOCKER_AUTH_CONFIG", _parse(text, "DOCKER_AUTH_CONFIG")
    files = [environment.get("REGISTRY_AUTH_FILE", "")]
    if folder := environment.get("DOCKER_CONFIG"):
        files.append(f"{folder}/config.json")
    elif home := environment.get("HOME"):
        files.append(f"{home}/.docker/config.json")
    for file in filter(None, files):
        try:
            text = Path(file).read_text()
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as cause:
            raise BadInputError(
                f"{file}: expected a config of docker, found {getattr(cause, 'strerror', None) or cause}",
                hint=f"repair it with `{shell_command('docker', 'login')}`, "
                "or point DOCKER_CONFIG to another folder",
            ) from None
        yield Path(file), _parse(text, file)


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
        found = "a value that is no object"
    except ValueError as cause:
        config, found = None, str(cause)
    if not isinstance(config, dict):
        raise BadInputError(
            f"{where}: expected a config of docker in JSON, found {found}",
            hint=f"repair it with `{shell_command('docker', 'login')}`",
        )
    return config


def _in_config(
    config: dict[str, Any], reference: Reference, where: str | Path, environment: Mapping[str, str]
) -> Credentials | None:
    """What one config knows of a registry: from its helper, else from its own entry.

    A config without secrets may be anybody's to read; one whose secret is used may not.
    """
    keys = _DOCKER_HUB_KEYS if reference.endpoint != reference.registry else (reference.registry,)
    for key in keys:
        helper = _table(config, "credHelpers").get(key) or config.get("credsStore")
        if helper and (found := _ask_helper(str(helper), key, environment)) is not None:
            return found
    for key, entry in _table(config, "auths").items():
        # Older programs wrote an address here, newer ones the bare registry.
        bare = re.sub(r"^https?://|/v[12]/?$|/$", "", key)
        if (key in keys or bare in keys) and isinstance(entry, dict):
            found = _in_entry(entry, f"{where}: auths: {key}")
            if found is not None:
                if isinstance(where, Path):
                    check_secret_file(where, "passwords of registries")
                return found
    return None


def _table(config: dict[str, Any], name: str) -> dict[str, Any]:
    table = config.get(name)
    return table if isinstance(table, dict) else {}


def _in_entry(entry: dict[str, Any], where: str) -> Credentials | None:
    """The credentials in one entry of `auths`; an empty one only says that a helper was used."""
    if token := entry.get("identitytoken"):
        return Credentials(identity_token=str(token))
    if packed := entry.get("auth"):
        try:
            unpacked = base64.b64decode(str(packed), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            unpacked = ""
        user, colon, password = unpacked.partition(":")
        if not colon:
            raise BadInputError(
                f"{where}: expected user:password in base64, found something else",
                hint=f"log in again with `{shell_command('docker', 'login')}`",
            )
        return Credentials(user, password.strip("\0"))
    if entry.get("username") and entry.get("password"):
        return Credentials(str(entry["username"]), str(entry["password"]))
    return None


def _ask_helper(helper: str, key: str, environment: Mapping[str, str]) -> Credentials | None:
    """Ask the program docker-credential-HELPER; None when it has nothing for this registry."""
    program = f"docker-credential-{helper}"
    problem = "a name that is no program's"
    if _HELPER_NAME.fullmatch(helper):
        try:
            asked = run_child(
                [program, "get"],
                input=key.encode(),
                capture_output=True,
                timeout=_HELPER_SECONDS,
                env=dict(environment),
            )
        except FileNotFoundError:
            problem = "no such program in PATH"
        except (OSError, subprocess.TimeoutExpired) as cause:
            problem = str(cause)
        else:
            if asked.returncode == 0:
                return _in_answer(asked.stdout, program)
            # Helpers print what is wrong on standard output; that there is nothing is an answer too.
            said = (asked.stdout + asked.stderr).decode(errors="replace").strip().partition("\n")[0]
            if "not found" in said.lower():
                return None
            problem = said or f"exit code {asked.returncode}"
    raise BadInputError(
        f"{program}: expected the credentials for {key}, found {problem}",
        hint=f"log in again with `{shell_command('docker', 'login', key)}`, "
        f"or set {USER_VARIABLE} and {PASSWORD_VARIABLE}",
    )


def _in_answer(answer: bytes, program: str) -> Credentials | None:
    try:
        found = json.loads(answer)
        user, secret = str(found["Username"]), str(found["Secret"])
    except (ValueError, KeyError, TypeError):
        raise BadInputError(
            f"{program}: expected Username and Secret in JSON, found something else",
            hint=f"set {USER_VARIABLE} and {PASSWORD_VARIABLE}, or repair the helper",
        ) from None
    if not secret:
        return None
    return Credentials(identity_token=secret) if user == _TOKEN_USER else Credentials(user, secret)
