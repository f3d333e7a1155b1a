"""A bill of materials beside its bundle in a registry, where the tools that look for bills find it."""

import json
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgephi.errors import BadBundleError, BadInputError
from edgephi.flash.bill_of_materials.document import bill_of_materials
from edgephi.flash.bill_of_materials.written import BILL_TYPE, read_bill, signature_file
from edgephi.flash.oci.manifests import INDEX_TYPE, MANIFEST_TYPE
from edgephi.flash.oci.pull import pull_bundle
from edgephi.flash.oci.push import Pushed, push_bundle
from edgephi.flash.oci.reference import read_reference
from edgephi.flash.signing.sign import signed_envelope
from edgephi.steps import silent
from tests.cli.conftest import Edgephi, is_one_error
from tests.flash.oci.conftest import MakeBundle, folder_bytes
from tests.flash.oci.referring_registry import serve_referrers
from tests.flash.oci.registry_server import RegistryServer, get

ENVELOPE_TYPE = "application/vnd.dsse.envelope.v1+json"


class Host(Protocol):
    """A registry, by host and port."""

    @property
    def host(self) -> str: ...


@dataclass(frozen=True)
class Made:
    """A bundle, and the file of its bill."""

    bundle: Path
    file: Path

    def push(self, registry: Host, name: str, tag: str = "1") -> Pushed:
        reference = read_reference(f"{registry.host}/{name}:{tag}")
        return push_bundle(self.bundle, reference, silent, bill=read_bill(self.file, self.bundle))


@pytest.fixture
def made(make_bundle: MakeBundle, tmp_path: Path) -> Made:
    """With a signature, as `edgephi sbom -o FILE --key KEY` makes it."""
    bundle, file = make_bundle(), tmp_path / "phi.cdx.json"
    file.write_bytes(bill_of_materials(bundle))
    signature = signature_file(file)
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    signature.write_bytes(signed_envelope(signature, file.read_bytes(), key, kind=BILL_TYPE))
    return Made(bundle, file)


def listed_under_tag(registry: RegistryServer, name: str, digest: str) -> list[dict[str, Any]]:
    """What refers to a manifest, as clients of registries without the API for that read it."""
    index = json.loads(get(registry, f"{name}/manifests/{digest.replace(':', '-')}", INDEX_TYPE))
    assert (index["schemaVersion"], index["mediaType"]) == (2, INDEX_TYPE)
    manifests: list[dict[str, Any]] = index["manifests"]
    return manifests


def only_layer(registry: RegistryServer, name: str, descriptor: dict[str, Any], subject: str) -> bytes:
    """The one blob of an artifact, which refers to `subject`."""
    data = get(registry, f"{name}/manifests/{descriptor['digest']}", MANIFEST_TYPE)
    artifact = json.loads(data)
    assert len(data) == descriptor["size"]
    assert artifact["artifactType"] == descriptor["artifactType"]
    assert artifact["subject"]["digest"] == subject
    assert artifact["subject"]["size"] == len(get(registry, f"{name}/manifests/{subject}", MANIFEST_TYPE))
    assert artifact["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    assert get(registry, f"{name}/blobs/{artifact['config']['digest']}") == b"{}"
    (layer,) = artifact["layers"]
    assert layer["mediaType"] == descriptor["artifactType"]
    return get(registry, f"{name}/blobs/{layer['digest']}")


def test_a_registry_without_the_list_gets_it_under_a_tag(
    registry: RegistryServer, name: str, made: Made
) -> None:
    """Docker's own registry, as of 2.8, knows nothing of referrers."""
    pushed = made.push(registry, name)
    (bill,) = listed_under_tag(registry, name, pushed.digest)
    assert (bill["digest"], bill["artifactType"]) == (pushed.bill, "application/vnd.cyclonedx+json")
    assert only_layer(registry, name, bill, pushed.digest) == made.file.read_bytes()
    (signature,) = listed_under_tag(registry, name, bill["digest"])
    assert (signature["digest"], signature["artifactType"]) == (pushed.signature, ENVELOPE_TYPE)
    envelope = only_layer(registry, name, signature, bill["digest"])
    assert envelope == signature_file(made.file).read_bytes()


def test_a_registry_with_the_list_keeps_it_itself(registry: RegistryServer, name: str, made: Made) -> None:
    with serve_referrers(registry) as referring:
        pushed = made.push(referring, name)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(
            f"http://{referring.host}/v2/{name}/referrers/{pushed.digest}", timeout=10
        ) as answer:
            (bill,) = json.loads(answer.read())["manifests"]
    assert (bill["digest"], bill["artifactType"]) == (pushed.bill, BILL_TYPE)
    (signature,) = referring.referrers[bill["digest"]]
    assert (signature["digest"], signature["artifactType"]) == (pushed.signature, ENVELOPE_TYPE)
    tags = json.loads(get(registry, f"{name}/tags/list"))["tags"]
    assert tags == ["1"]


def test_the_same_again_changes_nothing(registry: RegistryServer, name: str, made: Made) -> None:
    first, again = made.push(registry, name), made.push(registry, name)
    assert (again.digest, again.bill, again.signature) == (first.digest, first.bill, first.signature)
    assert (again.sent_bytes, again.reused_bytes) == (0, first.sent_bytes)
    assert len(listed_under_tag(registry, name, first.digest)) == 1
    sent = registry.requests("PUT", f"{name}/blobs")
    assert (
        len(sent) == 7
    )  # as of the bundle alone, and the bill and its signature; "{}" is a file of it already


def test_what_others_have_attached_stays(registry: RegistryServer, name: str, made: Made) -> None:
    pushed = made.push(registry, name)
    made.file.write_bytes(made.file.read_bytes().replace(b'"version": 1\n', b'"version": 2\n'))
    signature_file(made.file).unlink()
    next_one = made.push(registry, name)
    assert next_one.bill != pushed.bill
    assert next_one.signature is None
    listed = [each["digest"] for each in listed_under_tag(registry, name, pushed.digest)]
    assert listed == [pushed.bill, next_one.bill]


def test_the_tag_names_the_bundle_when_its_bill_is_there(
    registry: RegistryServer, name: str, made: Made
) -> None:
    pushed = made.push(registry, name)
    written = [each.rpartition("/")[2] for each in registry.requests("PUT", f"{name}/manifests")]
    assert written[0] == pushed.digest
    assert written[-1] == "1"
    assert {pushed.bill, pushed.signature} < set(written[1:-1])


def test_the_bundle_comes_out_as_it_went_in(
    registry: RegistryServer, name: str, made: Made, tmp_path: Path
) -> None:
    pushed = made.push(registry, name)
    pulled = pull_bundle(read_reference(f"{registry.host}/{name}:1"), tmp_path / "out", silent)
    assert pulled.digest == pushed.digest
    assert folder_bytes(tmp_path / "out") == folder_bytes(made.bundle)


def test_oras_gets_the_bill(registry: RegistryServer, name: str, made: Made, tmp_path: Path) -> None:
    oras_client = pytest.importorskip("oras.client")
    pushed = made.push(registry, name)
    client = oras_client.OrasClient(insecure=True)
    client.pull(target=f"{registry.host}/{name}@{pushed.bill}", outdir=str(tmp_path / "out"))
    assert folder_bytes(tmp_path / "out") == {"bundle.cdx.json": made.file.read_bytes()}


def test_a_tag_in_the_lists_place_is_not_written_over(
    registry: RegistryServer, name: str, made: Made
) -> None:
    pushed = push_bundle(made.bundle, read_reference(f"{registry.host}/{name}:1"), silent)
    tag = pushed.digest.replace(":", "-")
    push_bundle(made.bundle, read_reference(f"{registry.host}/{name}:{tag}"), silent)
    with pytest.raises(BadBundleError, match=f"expected a manifest of type {INDEX_TYPE}".replace("+", r"\+")):
        made.push(registry, name)


def test_on_the_command_line(
    registry: RegistryServer, name: str, edgephi: Edgephi, made: Made, tmp_path: Path
) -> None:
    assert edgephi("keygen", tmp_path / "me").returncode == 0
    edgephi("sbom", made.bundle, "-o", tmp_path / "own.json", "--key", tmp_path / "me.key")
    place = f"{registry.host}/{name}:1"
    done = edgephi("push", made.bundle, place, "--sbom", tmp_path / "own.json", "--json")
    document = json.loads(done.stdout)
    (bill,) = listed_under_tag(registry, name, document["digest"])
    assert document["sbom"] == bill["digest"]
    assert document["sbom_signature"]
    assert "note:" not in done.stderr
    signature_file(tmp_path / "own.json").unlink()
    done = edgephi("push", made.bundle, place, "--sbom", tmp_path / "own.json")
    assert done.stdout == f"{registry.host}/{name}@{document['digest']}\n"
    assert "note: the bill of materials is not signed" in done.stderr


def test_a_bill_of_another_bundle_is_refused_before_anything_is_sent(
    registry: RegistryServer, name: str, edgephi: Edgephi, made: Made, make_bundle: MakeBundle
) -> None:
    other = make_bundle("other", seed=1)
    done = edgephi("push", other, f"{registry.host}/{name}:1", "--sbom", made.file)
    assert is_one_error(done, 4), done.stderr
    assert "expected the bill of bundle" in done.stderr
    assert registry.requests("PUT", f"{name}/") == []


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"no JSON", b'{"bomFormat": "SPDX", "metadata": {"component": {"hashes": []}}}'],
)
def test_what_is_no_bill_is_refused(made: Made, data: bytes) -> None:
    made.file.write_bytes(data)
    with pytest.raises(BadInputError, match="expected a bill of materials by CycloneDX, found other data"):
        read_bill(made.file, made.bundle)


def test_a_signature_over_something_else_is_refused(made: Made) -> None:
    made.file.write_bytes(made.file.read_bytes() + b" ")
    with pytest.raises(BadInputError, match=r"expected a signature over phi\.cdx\.json"):
        read_bill(made.file, made.bundle)


def test_a_bundles_own_signature_is_none_of_a_bill(made: Made) -> None:
    signature = signature_file(made.file)
    signature.unlink()
    key = Ed25519PrivateKey.generate()
    signature.write_bytes(signed_envelope(signature, made.file.read_bytes(), key))
    with pytest.raises(BadBundleError, match=r"expected payloadType 'application/vnd\.cyclonedx\+json'"):
        read_bill(made.file, made.bundle)
