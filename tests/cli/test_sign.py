"""`edgephi keygen`, `sign` and `trust`: from a new key to a device that takes its bundles alone."""

import json
import re
import shutil
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgephi.flash.folder import flash_folder
from edgephi.flash.signing.keys import public_half, read_signing_key
from edgephi.flash.signing.sign import sign_bundle
from edgephi.store.preflight import InstallOptions
from edgephi.store.trust.change import trust_key
from tests.cli.conftest import Edgephi, is_one_error
from tests.installs import installs
from tests.store.bundles import digest_of

BACKUP = public_half(Ed25519PrivateKey.from_private_bytes(bytes([24]) * 32)).pem
FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@pytest.fixture
def bundle(demo_bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(demo_bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def key(edgephi: Edgephi, tmp_path: Path) -> Path:
    assert edgephi("keygen", tmp_path / "release").returncode == 0
    return tmp_path / "release.key"


def test_a_key_pair_and_what_it_is(edgephi: Edgephi, tmp_path: Path) -> None:
    done = edgephi("keygen", "release", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "release.key: the secret key; whoever has it can sign",
        "release.pub: the public key, for those who check",
    ]
    assert re.fullmatch(r"fingerprint [0-9a-f]{64}", lines[2])
    assert stat.S_IMODE((tmp_path / "release.key").stat().st_mode) == 0o600
    assert (tmp_path / "release.key").read_text().splitlines()[1] not in done.stdout


def test_a_key_pair_as_json(edgephi: Edgephi, tmp_path: Path) -> None:
    document = json.loads(edgephi("keygen", "release", "--json", cwd=tmp_path).stdout)
    assert FINGERPRINT.fullmatch(document.pop("fingerprint"))
    assert document == {"kind": "ed25519", "secret": "release.key", "public": "release.pub"}
    document = json.loads(edgephi("keygen", "other", "--model-signing", "--json", cwd=tmp_path).stdout)
    assert document == {"kind": "p256", "secret": "other.key", "public": "other.pub", "fingerprint": None}


def test_a_key_that_is_there_is_kept(edgephi: Edgephi, key: Path) -> None:
    before = key.read_bytes()
    assert is_one_error(edgephi("keygen", key.with_suffix("")), 2)
    assert is_one_error(edgephi("keygen", key), 2)
    assert key.read_bytes() == before


def test_a_folder_that_is_not_there_or_closed(edgephi: Edgephi, tmp_path: Path) -> None:
    assert is_one_error(edgephi("keygen", tmp_path / "none" / "release"), 4)


def test_a_device_takes_what_its_key_has_signed(
    edgephi: Edgephi, bundle: Path, key: Path, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    added = edgephi("trust", "add", root, key.with_suffix(".pub"))
    assert added.stdout.startswith(f"{root} trusts release: ")
    refused = edgephi("flash", bundle, root)
    assert refused.returncode == 4
    assert "expected a signature by release (" in refused.stderr
    assert "found an unsigned bundle" in refused.stderr
    done = edgephi("sign", bundle, "--key", key)
    assert done.returncode == 0
    assert done.stdout.startswith("demo-cpu, release 1, is signed: bundle.dsse.json\nby key ")
    assert edgephi("verify", bundle).returncode == 0
    taken = edgephi("flash", bundle, root)
    assert taken.returncode == 0
    assert "signed by release" in taken.stdout


def test_signing_as_json_and_for_other_tools(edgephi: Edgephi, bundle: Path, key: Path) -> None:
    theirs = key.with_name("theirs")
    assert edgephi("keygen", theirs, "--model-signing").returncode == 0
    done = edgephi("sign", bundle, "--key", key, "--model-signing", f"{theirs}.key", "--json")
    document = json.loads(done.stdout)
    assert FINGERPRINT.fullmatch(document.pop("fingerprint"))
    written = ["bundle.model-signing.json", "bundle.dsse.json"]
    assert document == {"bundle": str(bundle), "written": written}
    assert all((bundle / name).is_file() for name in written)


def test_who_has_signed_can_be_asked_without_a_device(edgephi: Edgephi, bundle: Path, key: Path) -> None:
    public = key.with_suffix(".pub")
    unsigned = edgephi("verify", bundle, "--signed-by", public)
    assert is_one_error(unsigned, 4)
    assert "found an unsigned bundle" in unsigned.stderr
    edgephi("sign", bundle, "--key", key)
    assert "\nsigned by release\n" in edgephi("verify", bundle, "--signed-by", public).stdout
    assert (
        json.loads(edgephi("verify", bundle, "--signed-by", public, "--json").stdout)["signer"] == "release"
    )
    edgephi("keygen", key.with_name("other"))
    assert is_one_error(edgephi("verify", bundle, "--signed-by", key.with_name("other.pub")), 4)


def test_a_broken_bundle_is_not_signed(edgephi: Edgephi, bundle: Path, key: Path) -> None:
    with (bundle / "model/model.onnx.data").open("r+b") as file:
        file.write(b"\xff" * 8)
    done = edgephi("sign", bundle, "--key", key)
    assert is_one_error(done, 4)
    assert "model/model.onnx.data: expected sha256" in done.stderr
    assert not (bundle / "bundle.dsse.json").exists()


def test_signing_needs_a_key(edgephi: Edgephi, bundle: Path, key: Path) -> None:
    assert is_one_error(edgephi("sign", bundle), 2)
    assert is_one_error(edgephi("sign", bundle, "--key", bundle / "none.key"), 4)
    public = key.with_suffix(".pub")
    public.chmod(0o600)
    assert "found a public key" in edgephi("sign", bundle, "--key", public).stderr
    assert "found Ed25519" in edgephi("sign", bundle, "--model-signing", key).stderr


def test_what_is_not_installed_is_named_with_its_extra(edgephi: Edgephi, bundle: Path, key: Path) -> None:
    done = edgephi("sign", bundle, "--key", key, before="import sys; sys.modules['cryptography'] = None")
    assert is_one_error(done, 3)
    assert installs(done.stderr, "flash")
    theirs = key.with_name("theirs")
    assert edgephi("keygen", theirs, "--model-signing").returncode == 0
    blocked = "import sys; sys.modules['model_signing'] = None"
    done = edgephi("sign", bundle, "--key", key, "--model-signing", f"{theirs}.key", before=blocked)
    assert done.returncode == 3
    assert installs(done.stderr, "model-signing")
    assert not (bundle / "bundle.dsse.json").exists()


def test_keys_of_a_store_are_listed_and_removed(edgephi: Edgephi, key: Path, tmp_path: Path) -> None:
    root, public = tmp_path / "store", key.with_suffix(".pub")
    assert is_one_error(edgephi("trust", "list", root), 2)
    edgephi("trust", "add", root, public)
    assert edgephi("keygen", tmp_path / "next").returncode == 0
    edgephi("trust", "add", root, tmp_path / "next.pub")
    listed = json.loads(edgephi("trust", "list", root, "--json").stdout)
    assert [each["name"] for each in listed] == ["next", "release"]
    assert listed[1]["fingerprint"] in edgephi("trust", "list", root).stdout
    assert edgephi("trust", "remove", root, listed[1]["fingerprint"][:12]).stdout.startswith(
        f"{root} no longer trusts release: "
    )
    refused = edgephi("trust", "remove", root, "next")
    assert is_one_error(refused, 2)
    assert edgephi("trust", "remove", root, "next", "--last").returncode == 0
    assert "it takes bundles that are not signed" in edgephi("trust", "list", root).stdout


def test_what_no_key_vouches_for_is_named(edgephi: Edgephi, bundle: Path, key: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    for name, public in (("release", key.with_suffix(".pub").read_bytes()), ("backup", BACKUP)):
        trust_key(root, f"{name}.pub", public)
    sign_bundle(bundle, read_signing_key(key))
    flash_folder(bundle, root, InstallOptions(prove=False))
    removed = edgephi("trust", "remove", root, "release")
    digest = digest_of(bundle)[:12]
    line = f"no key vouches for {digest}, demo-cpu release 1: it is active until a signed one is flashed: "
    assert removed.stdout.splitlines()[1].startswith(line)
    assert f"flash BUNDLE {root}`" in removed.stdout
    shown = edgephi("status", root)
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[1].endswith("not proven here, no key")
    assert lines[-1] == removed.stdout.splitlines()[1]
    [found] = json.loads(edgephi("status", root, "--json").stdout)["generations"]
    assert found["signer"] is None
    assert found["unvouched"].startswith("bundle.dsse.json: expected a signature by backup")
    document = json.loads(edgephi("trust", "add", root, key.with_suffix(".pub"), "--json").stdout)
    assert (document["name"], document["unvouched"]) == ("release", [])
    shutil.rmtree(root / "trust")
    assert "\nclosed: " in edgephi("status", root).stdout


def test_lost_keys_close_a_store_until_they_are_given_up(
    edgephi: Edgephi, bundle: Path, key: Path, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    trust_key(root, "release.pub", key.with_suffix(".pub").read_bytes())
    shutil.rmtree(root / "trust")
    refused = edgephi("flash", bundle, root)
    assert is_one_error(refused, 4)
    assert f"{root}/trust: expected the keys that this store has had, found no such folder" in refused.stderr
    assert is_one_error(edgephi("trust", "list", root), 4)
    assert is_one_error(edgephi("trust", "remove", root), 2)
    given_up = edgephi("trust", "remove", root, "--last")
    assert given_up.stdout == f"{root} trusts nobody in particular: it takes bundles that are not signed\n"
    assert edgephi("flash", bundle, root, "--elsewhere").returncode == 0


def test_a_secret_key_is_never_put_into_a_store(edgephi: Edgephi, key: Path, tmp_path: Path) -> None:
    done = edgephi("trust", "add", tmp_path / "store", key)
    assert is_one_error(done, 4)
    assert "expected a public key, found a private one" in done.stderr
    assert not (tmp_path / "store").exists()


def test_trust_does_not_mix_with_other_folders(edgephi: Edgephi, key: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter.txt").touch()
    assert is_one_error(edgephi("trust", "add", tmp_path / "home", key.with_suffix(".pub")), 2)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["letter.txt"]
