"""Adapters in a registry: beside their base only they are sent, and whoever gets them gets the whole."""

import json
from pathlib import Path

from edgephi.bundle.files import check_files
from edgephi.bundle.manifest import read_manifest
from edgephi.flash.oci.push import push_bundle
from edgephi.flash.oci.reference import read_reference
from edgephi.steps import silent
from tests.build.switched_adapters.demo_adapters import ASKED
from tests.cli.conftest import Edgephi, is_one_error
from tests.flash.oci.conftest import folder_bytes
from tests.flash.oci.registry_server import RegistryServer
from tests.store.bundles import digest_of

SMALL = 20_000  # bytes of the two documents that a registry has of each


def test_only_the_adapters_are_sent_behind_their_base(
    registry: RegistryServer, name: str, demo_bundle: Path, demo_artifact: Path
) -> None:
    base = push_bundle(demo_bundle, read_reference(f"{registry.host}/{name}:base"), silent)
    pushed = push_bundle(demo_artifact, read_reference(f"{registry.host}/{name}:adapters"), silent)
    own = sum(map(len, folder_bytes(demo_artifact / "model").values()))
    documents = (demo_artifact / "bundle.json").stat().st_size + SMALL
    assert own < pushed.sent_bytes < own + documents
    assert base.sent_bytes - documents < pushed.reused_bytes
    again = push_bundle(demo_artifact, read_reference(f"{registry.host}/{name}:again"), silent)
    assert (again.digest, again.sent_bytes) == (pushed.digest, 0)


def test_a_device_flashes_and_a_folder_pulls_the_whole(
    registry: RegistryServer,
    name: str,
    edgephi: Edgephi,
    demo_bundle: Path,
    demo_artifact: Path,
    tmp_path: Path,
) -> None:
    """Also one that has nothing yet: there the base comes too."""
    reference, store = f"oci://{registry.host}/{name}:1", tmp_path / "store"
    for folder in (demo_bundle, demo_artifact):
        assert edgephi("push", folder, reference).returncode == 0
    done = edgephi("flash", reference, store, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["digest"] == digest_of(demo_artifact)
    done = edgephi("run", store, ASKED, "--adapter", "opposite")
    assert '"turn_on"' in done.stdout, done.stderr
    assert edgephi("pull", reference, "-o", tmp_path / "out").returncode == 0
    manifest = read_manifest(tmp_path / "out")
    check_files(tmp_path / "out", manifest)
    assert digest_of(tmp_path / "out") == digest_of(demo_artifact)
    together = {**folder_bytes(demo_bundle), **folder_bytes(demo_artifact)}
    assert folder_bytes(tmp_path / "out") == together


def test_a_device_with_the_base_is_sent_the_adapters(
    registry: RegistryServer,
    name: str,
    edgephi: Edgephi,
    demo_bundle: Path,
    demo_artifact: Path,
    tmp_path: Path,
) -> None:
    for folder in (demo_bundle, demo_artifact):
        push_bundle(folder, read_reference(f"{registry.host}/{name}:1"), silent)
    store = tmp_path / "store"
    assert edgephi("flash", demo_bundle, store, "--elsewhere").returncode == 0
    done = edgephi("flash", f"oci://{registry.host}/{name}:1", store, "--elsewhere", "--json")
    own = sum(map(len, folder_bytes(demo_artifact / "model").values()))
    assert json.loads(done.stdout)["sent_bytes"] == own


def test_without_their_base_they_are_not_pushed(
    registry: RegistryServer, name: str, edgephi: Edgephi, demo_artifact: Path
) -> None:
    """Nor is one of another repository taken, which a device could not ask for."""
    done = edgephi("push", demo_artifact, f"{registry.host}/{name}:1")
    assert is_one_error(done, 4)
    assert "adapters for demo-cpu 1 (" in done.stderr
    assert "expected that bundle in the registry, found none of its " in done.stderr
    assert not registry.requests("PUT", f"{name}/")
    assert not registry.requests("POST", f"{name}/")
