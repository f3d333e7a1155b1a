"""How an artifact in a registry is named."""

import pytest

from edgephi.errors import UsageError
from edgephi.flash.oci.reference import is_reference, read_reference

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "registry", "name", "version"),
    [
        ("ghcr.io/acme/phi-3.5-mini:7", "ghcr.io", "acme/phi-3.5-mini", "7"),
        ("oci://localhost/phi:latest", "localhost", "phi", "latest"),
        ("localhost:5000/a/b/c_d:v1.2-rc.1", "localhost:5000", "a/b/c_d", "v1.2-rc.1"),
        (f"registry.example:443/a@{DIGEST}", "registry.example:443", "a", DIGEST),
        ("[::1]:5000/a:1", "[::1]:5000", "a", "1"),
    ],
)
def test_what_can_be_read(text: str, registry: str, name: str, version: str) -> None:
    reference = read_reference(text)
    assert (reference.registry, reference.name, reference.version) == (registry, name, version)
    assert str(reference) == text.removeprefix("oci://")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("phi:1", "found 'phi:1'"),  # docker would take docker.io; a device must not guess
        ("acme/phi:1", "found 'acme'"),
        ("ghcr.io/acme/phi", "found none"),
        ("ghcr.io/acme/Phi:1", "found 'acme/Phi'"),
        ("ghcr.io/../phi:1", "found '../phi'"),
        ("ghcr.io/a//b:1", "found 'a//b'"),
        ("ghcr.io/phi:a b", "found 'a b'"),
        ("ghcr.io/phi@sha256:12", "found 'sha256:12'"),
        ("user:secret@ghcr.io/phi:1", "found 'user:secret@ghcr.io'"),
        ("localhost:99999/phi:1", "found 99999"),
        ("a..b:5000/phi:1", "found 'a..b:5000'"),
        ("-.-:1/phi:1", "found '-.-:1'"),
        (f"{'a' * 64}.example/phi:1", "found 'aaa"),
        ("oci://", "found ''"),
    ],
)
def test_what_cannot(text: str, found: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_reference(text)
    assert found in refused.value.message


def test_a_folder_is_no_reference() -> None:
    assert is_reference("oci://ghcr.io/phi:1")
    assert not is_reference("ghcr.io/phi:1")
    assert not is_reference("./oci:/phi")


@pytest.mark.parametrize(
    ("registry", "is_here"),
    [
        ("localhost:5000", True),
        ("127.9.9.9", True),
        ("[::1]:5000", True),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("192.168.1.5:5000", False),
    ],
)
def test_which_registry_is_this_machine(registry: str, is_here: bool) -> None:
    assert read_reference(f"{registry}/phi:1").is_loopback is is_here
