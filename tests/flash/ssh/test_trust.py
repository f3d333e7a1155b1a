"""Whose bundles a box takes, said and held over ssh: the box has a Python and no library for signatures."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgephi.flash.signing.keys import public_half
from edgephi.flash.signing.sign import sign_bundle
from edgephi.store.trust.change import trust_key
from tests.flash.ssh.sshd import Sshd
from tests.store.bundles import digest_of, remade
from tests.store.conftest import install

KEYS = {
    name: Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    for seed, name in enumerate(("release", "backup"), 31)
}


def edgephi(server: Sshd, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run the command as the user who connects."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "edgephi.cli", *map(str, arguments)],
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def bundle(demo_bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(demo_bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_a_box_takes_only_what_its_key_has_signed(bare_box: Sshd, bundle: Path, root: Path) -> None:
    there, key = bare_box.destination(root), bundle.parent / "release"
    assert edgephi(bare_box, "keygen", key).returncode == 0
    added = edgephi(bare_box, "trust", "add", there, f"{key}.pub")
    assert added.returncode == 0, added.stderr
    listed = json.loads(edgephi(bare_box, "trust", "list", there, "--json").stdout)
    assert [each["name"] for each in listed] == ["release"]
    assert listed[0]["fingerprint"] in added.stdout
    refused = edgephi(bare_box, "flash", bundle, there)
    assert refused.returncode == 4
    assert "expected a signature by release" in refused.stderr
    assert not any((root / "parts").iterdir() if (root / "parts").exists() else ())
    assert edgephi(bare_box, "sign", bundle, "--key", f"{key}.key").returncode == 0
    # The box has no engine either: that it says so means that it took the signature.
    after = edgephi(bare_box, "flash", bundle, there)
    assert after.returncode == 3
    assert "signature" not in after.stderr


def test_a_box_with_the_engine_says_who_has_signed(box: Sshd, bundle: Path, root: Path) -> None:
    there, key = box.destination(root), bundle.parent / "release"
    edgephi(box, "keygen", key)
    edgephi(box, "trust", "add", there, f"{key}.pub")
    edgephi(box, "sign", bundle, "--key", f"{key}.key")
    done = json.loads(edgephi(box, "flash", bundle, there, "--json").stdout)
    assert (done["signer"], done["was_current"]) == ("release", False)
    assert (root / "current/bundle.dsse.json").read_bytes() == (bundle / "bundle.dsse.json").read_bytes()


def test_keys_of_a_box_are_removed(box: Sshd, root: Path, tmp_path: Path) -> None:
    there = box.destination(root)
    missing = edgephi(box, "trust", "list", there)
    assert missing.returncode == 2
    assert "expected a store, found none" in missing.stderr
    edgephi(box, "keygen", tmp_path / "release")
    edgephi(box, "trust", "add", there, tmp_path / "release.pub")
    last = edgephi(box, "trust", "remove", there, "release")
    assert last.returncode == 2
    assert "is the last" in last.stderr
    assert edgephi(box, "trust", "remove", there, "release", "--last").returncode == 0
    assert json.loads(edgephi(box, "trust", "list", there, "--json").stdout) == []


def test_a_box_goes_back_to_nothing_that_no_key_vouches_for(
    box: Sshd, bundle: Path, root: Path, tmp_path: Path
) -> None:
    there = box.destination(root)
    newer = remade(bundle, tmp_path / "newer", {}, sequence=2)
    for (name, key), signed in zip(KEYS.items(), (bundle, newer), strict=True):
        trust_key(root, f"{name}.pub", public_half(key).pem)
        sign_bundle(signed, key)
        install(signed, root)
    removed = edgephi(box, "trust", "remove", there, "release")
    assert f"no key vouches for {digest_of(bundle)[:12]}, demo-cpu release 1: " in removed.stdout
    before = (root / "state.json").read_bytes()
    refused = edgephi(box, "rollback", there, "--json")
    assert (refused.returncode, refused.stdout) == (4, "")
    assert "expected a signature by backup" in refused.stderr
    shutil.rmtree(root / "trust")
    lost = edgephi(box, "rollback", there)
    assert lost.returncode == 4
    assert "expected the keys that this store has had, found no such folder" in lost.stderr
    assert (root / "state.json").read_bytes() == before
    assert (root / "current").readlink().name == digest_of(newer)
