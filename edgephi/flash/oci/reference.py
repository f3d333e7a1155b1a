"""The name of an artifact in a registry: `REGISTRY/NAME:TAG`, or by its digest `REGISTRY/NAME@sha256:…`."""

import ipaddress
import re
from dataclasses import dataclass

from edgephi.errors import UsageError

SCHEME = "oci://"

# https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_REGISTRY = re.compile(
    rf"(?P<host>\[[0-9A-Fa-f:.]+\]|{_LABEL}(?:\.{_LABEL})*)(?::(?P<port>[0-9]{{1,5}}))?", re.ASCII
)
# Docker's own registry is called by another name than the one it answers to.
_DOCKER_HUB = ("docker.io", "index.docker.io")
_DOCKER_HUB_HOST = "registry-1.docker.io"


@dataclass(frozen=True)
class Reference:
    """Where an artifact lies; `version` is a tag, or a digest that starts with `sha256:`."""

    registry: str
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}{'@' if self.by_digest else ':'}{self.version}"

    @property
    def by_digest(self) -> bool:
        """Whether the artifact is named by what it is, not by a tag that can be moved."""
        return self.version.startswith("sha256:")

    @property
    def host(self) -> str:
        """The registry without its port, IPv6 addresses without their brackets."""
        match = _REGISTRY.fullmatch(self.registry)
        return match["host"].strip("[]") if match else self.registry

    @property
    def endpoint(self) -> str:
        """Host and port that answer for this registry."""
        return _DOCKER_HUB_HOST if self.registry in _DOCKER_HUB else self.registry

    @property
    def is_loopback(self) -> bool:
        """Whether the registry runs on this machine, so that no wire is between."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a host, without a port, is this machine by its name or address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_reference(text: str) -> bool:
    """Whether a bundle is named as an artifact in a registry, by its scheme."""
    return text.startswith(SCHEME)


def read_reference(text: str) -> Reference:
    """Read `[oci://]REGISTRY/NAME:TAG` or `[oci://]REGISTRY/NAME@sha256:…`. Raises UsageError."""
    registry, slash, rest = text.removeprefix(SCHEME).partition("/")
    match = _REGISTRY.fullmatch(registry)
    # As docker tells a registry from the first part of a name.
    is_registry = "." in registry or ":" in registry or registry == "localhost"
    if not slash or match is None or not is_registry:
        raise _unreadable(text, "a registry, such as ghcr.io or localhost:5000", repr(registry))
    if int(match["port"] or 0) > 65535:
        raise _unreadable(text, "a port up to 65535", match["port"])
    name, at, digest = rest.partition("@")
    if at:
        version, pattern, what = digest, _DIGEST, "a digest sha256: and 64 hexadecimal digits after @"
    else:
        name, _, version = rest.partition(":")
        pattern, what = _TAG, "a tag after the name, such as :1"
    if not _NAME.fullmatch(name):
        raise _unreadable(text, "a name of small letters, digits and . _ - /", repr(name))
    if not pattern.fullmatch(version):
        raise _unreadable(text, what, repr(version) if version else "none")
    return Reference(registry, name, version)


def _unreadable(text: str, expected: str, found: str) -> UsageError:
    return UsageError(
        f"{text}: expected {expected}, found {found}",
        hint="write REGISTRY/NAME:TAG, such as ghcr.io/acme/phi-3.5-mini-cpu:7",
    )
