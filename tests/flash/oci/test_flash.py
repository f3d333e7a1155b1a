"""Flash straight from a registry: only the chunks that the store lacks are asked for."""

import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgephi.bundle.manifest import SIGNATURE_NAME
from edgephi.flash.folder import flash_folder, flash_source
from edgephi.flash.oci.push import push_bundle
from edgephi.flash.oci.reference import read_reference
from edgephi.flash.oci.source import open_source
from edgephi.flash.signing.sign import sign_bundle
from edgephi.steps import silent
from edgephi.store.preflight import InstallOptions
from tests.cli.conftest import Edgephi, is_one_error
from tests.flash.oci.conftest import MakeBundle, folder_bytes
from tests.flash.oci.cutting_proxy import cutting_proxy
from tests.flash.oci.registry_server import RegistryServer, serve_registry
from tests.flash.ssh.sshd import Sshd

MEBIBYTE = 1 << 20
ELSEWHERE = InstallOptions(prove=False)  # these weights are random and answer nothing


def test_the_demo_from_a_registry_runs(
    registry: RegistryServer, name: str, edgephi: Edgephi, demo_bundle: Path, tmp_path: Path
) -> None:
    assert edgephi("push", demo_bundle, f"{registry.host}/{name}:1").returncode == 0
    store = tmp_path / "store"
    done = edgephi("flash", f"oci://{registry.host}/{name}:1", store, "--json")
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)
    assert first["probe"]["tokens_per_second"] > 0
    assert folder_bytes(store / "current") == folder_bytes(demo_bundle)
    done = edgephi("flash", f"oci://{registry.host}/{name}:1", store, "--json")
    assert json.loads(done.stdout)["sent_bytes"] == 0
    done = edgephi("run", store, "hello", "--max-tokens", "4")
    assert done.returncode == 0, done.stderr


def test_only_the_chunks_that_changed_travel(
    registry: RegistryServer, name: str, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    flash_folder(make_bundle("old", mebibytes=32), tmp_path / "store", ELSEWHERE)
    new = make_bundle("new", mebibytes=32, changed=(7, 8, 20))
    push_bundle(new, read_reference(f"{registry.host}/{name}:2"), silent)
    with cutting_proxy(registry.port) as proxy:
        with open_source(read_reference(f"{proxy.host}/{name}:2")) as source:
            outcome = flash_source(source, tmp_path / "store", ELSEWHERE)
        assert outcome.sent_bytes == 3 * MEBIBYTE
        assert proxy.down < 3 * MEBIBYTE + 100_000
    assert folder_bytes(tmp_path / "store/current") == folder_bytes(new)


def test_through_ten_cuts(
    registry: RegistryServer, name: str, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle(mebibytes=24)
    push_bundle(bundle, read_reference(f"{registry.host}/{name}:1"), silent)
    with cutting_proxy(registry.port) as proxy:
        proxy.cuts_down += [2 * MEBIBYTE] * 10
        with open_source(read_reference(f"{proxy.host}/{name}:1")) as source:
            outcome = flash_source(source, tmp_path / "store", ELSEWHERE)
        assert proxy.cuts == 10
        assert proxy.down < 24 * MEBIBYTE + 10 * 2 * MEBIBYTE
    assert outcome.sent_bytes == 24 * MEBIBYTE + 2
    assert folder_bytes(tmp_path / "store/current") == folder_bytes(bundle)


def test_a_registry_that_dies_and_comes_back(
    tmp_path: Path, edgephi: Edgephi, make_bundle: MakeBundle
) -> None:
    bundle = make_bundle(mebibytes=16)
    store = tmp_path / "store"
    with serve_registry(tmp_path / "registry") as registry, cutting_proxy(registry.port) as proxy:
        push_bundle(bundle, read_reference(f"{registry.host}/phi:1"), silent)
        proxy.cuts_down.append(9 * MEBIBYTE)
        proxy.on_cut = registry.kill
        done = edgephi("flash", f"oci://{proxy.host}/phi:1", store, "--elsewhere")
        assert is_one_error(done, 6), done.stderr
        assert not (store / "current").exists()
        registry.start()
        done = edgephi("flash", f"oci://{proxy.host}/phi:1", store, "--elsewhere", "--json")
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert document["saved_bytes"] >= 2 * MEBIBYTE
        assert document["saved_bytes"] + document["sent_bytes"] == 16 * MEBIBYTE + 4
    assert folder_bytes(store / "current") == folder_bytes(bundle)


def test_the_signature_travels_and_is_asked_for(
    registry: RegistryServer, name: str, edgephi: Edgephi, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    assert edgephi("keygen", tmp_path / "maker").returncode == 0
    store = tmp_path / "store"
    done = edgephi("flash", make_bundle("first", seed=1), store, "--elsewhere")
    assert done.returncode == 0, done.stderr
    done = edgephi("trust", "add", store, tmp_path / "maker.pub")
    assert done.returncode == 0, done.stderr
    bundle = make_bundle()
    where = f"{registry.host}/{name}"
    assert edgephi("push", bundle, f"{where}:unsigned").returncode == 0
    sign_bundle(bundle, Ed25519PrivateKey.generate())
    assert edgephi("push", bundle, f"{where}:stranger").returncode == 0
    (bundle / SIGNATURE_NAME).unlink()
    assert edgephi("sign", bundle, "--key", tmp_path / "maker.key").returncode == 0
    assert edgephi("push", bundle, f"{where}:signed").returncode == 0
    before = (store / "current").resolve()
    for tag in ("unsigned", "stranger"):
        done = edgephi("flash", f"oci://{where}:{tag}", store, "--elsewhere")
        assert is_one_error(done, 4), done.stderr
        assert (store / "current").resolve() == before
    done = edgephi("flash", f"oci://{where}:signed", store, "--elsewhere")
    assert done.returncode == 0, done.stderr
    assert "signed by maker" in done.stdout


@pytest.mark.skipif(shutil.which("mke2fs", path="/sbin:/usr/sbin") is None, reason="needs e2fsprogs")
def test_an_image_from_a_registry(
    registry: RegistryServer, name: str, edgephi: Edgephi, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle()
    push_bundle(bundle, read_reference(f"{registry.host}/{name}:1"), silent)
    images = [tmp_path / "from_the_registry.img", tmp_path / "from_the_folder.img"]
    for source, image in zip((f"oci://{registry.host}/{name}:1", bundle), images, strict=True):
        done = edgephi("flash", source, f"image:{image}", "--elsewhere")
        assert done.returncode == 0, done.stderr
    assert images[0].read_bytes() == images[1].read_bytes()


def test_through_this_machine_to_a_box(
    registry: RegistryServer, name: str, edgephi: Edgephi, demo_bundle: Path, box: Sshd, tmp_path: Path
) -> None:
    push_bundle(demo_bundle, read_reference(f"{registry.host}/{name}:1"), silent)
    where = box.destination(tmp_path / "store")
    done = edgephi("flash", f"oci://{registry.host}/{name}:1", where, env=box.environment)
    assert done.returncode == 0, done.stderr
    assert folder_bytes(tmp_path / "store/current") == folder_bytes(demo_bundle)
