"""A store says which of its generations no key vouches for, whatever has become of the keys since."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgephi.cli.show.outcome import outcome_summary
from edgephi.errors import BadBundleError, BadInputError, UsageError
from edgephi.flash.signing.keys import public_half
from edgephi.store.opening import open_bundle
from edgephi.store.rollback import roll_back
from edgephi.store.status import GenerationStatus, status
from edgephi.store.trust.change import distrust_key, trust_key
from edgephi.store.trust.trusted_keys import read_trusted_keys, remove_key
from tests.second_user import edgephi_as_nobody, with_second_user
from tests.store.bundles import digest_of
from tests.store.conftest import install
from tests.store.trust.test_lost_keys import RELEASE, flash, released

BACKUP = Ed25519PrivateKey.from_private_bytes(bytes([23]) * 32)
NAMES = {"release": RELEASE, "backup": BACKUP}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three releases: signed by the release key, by the backup key, by both."""
    folder = tmp_path_factory.mktemp("bundles")
    signers = ((RELEASE,), (BACKUP,), (RELEASE, BACKUP))
    return [released(folder / str(number), number, *keys) for number, keys in enumerate(signers, 1)]


@pytest.fixture(scope="module")
def prepared(bundles: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that trusts both keys and has all three, the third active; not to be changed."""
    root = tmp_path_factory.mktemp("prepared") / "store"
    for name, key in NAMES.items():
        trust_key(root, f"{name}.pub", public_half(key).pem)
    for bundle in bundles:
        flash(bundle, root)
    return root


@pytest.fixture
def store(prepared: Path, tmp_path: Path) -> Path:
    """A copy of that store, its hard links kept."""
    subprocess.run(["cp", "--archive", prepared, tmp_path / "store"], check=True)
    return tmp_path / "store"


def by_role(root: Path) -> dict[str, GenerationStatus]:
    return {each.role: each for each in status(root).generations}


def test_each_generation_names_the_key_that_vouches_for_it(store: Path) -> None:
    found = by_role(store)
    assert {role: each.signer for role, each in found.items()} == {
        "current": "backup",  # the first of the store's keys, by name, of those that signed it
        "previous": "backup",
        "other": "release",
    }
    assert not any(each.unvouched for each in found.values())
    assert status(store).keys_problem == ""


NO_KEYS: dict[str, Callable[[Path], object]] = {
    "a link that leads nowhere": lambda path: path.symlink_to("/nowhere/key.pub"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a file without an end": lambda path: path.symlink_to("/dev/zero"),
    "a file larger than any key": lambda path: path.write_bytes(bytes(1 << 20)),
}


@pytest.mark.parametrize("make", NO_KEYS.values(), ids=NO_KEYS)
def test_a_store_that_is_closed_by_what_is_no_key_says_so(
    store: Path, make: Callable[[Path], object]
) -> None:
    """And is not merely an error of `status`, which shows all else."""
    make(store / "trust" / "usb.pub")
    assert "usb.pub: expected a" in status(store).keys_problem
    assert all(each.unvouched for each in by_role(store).values())
    with pytest.raises(BadInputError, match=r"usb\.pub: expected a"):
        roll_back(store)


def test_a_user_who_may_not_read_a_key_sees_all_else(store: Path) -> None:
    """The user of a service: the key was copied there under a umask of 077."""
    with_second_user()
    (store / "trust" / "release.pub").chmod(0o600)
    with tempfile.TemporaryDirectory() as shown:
        Path(shown).chmod(0o755)
        subprocess.run(["cp", "--archive", store, f"{shown}/store"], check=True)
        done = edgephi_as_nobody("status", f"{shown}/store", "--json")
    assert done.returncode == 0, done.stderr
    assert "release.pub: expected a file with a public key, found that it cannot be read" in done.stdout


def test_removing_a_key_names_what_nobody_vouches_for_now(store: Path, bundles: list[Path]) -> None:
    change = distrust_key(store, "backup", also_the_last=False)
    assert [(each.digest, each.role, each.name, each.sequence) for each in change.unvouched] == [
        (digest_of(bundles[1]), "previous", "tiny-cpu", 2)
    ]
    assert "expected a signature by release" in change.unvouched[0].reason
    found = by_role(store)
    assert {role: bool(each.unvouched) for role, each in found.items()} == {
        "current": False,
        "previous": True,
        "other": False,
    }
    assert found["current"].signer == "release"
    assert found["previous"].unvouched == change.unvouched[0].reason
    assert found["previous"].problem == "", "it is not damaged"


def test_the_first_key_names_what_came_before_it(bundles: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "store"
    flash(released(tmp_path / "unsigned", 1), root)
    flash(bundles[1], root)
    assert [each.unvouched for each in status(root).generations] == ["", ""], "nobody asks"
    change = trust_key(root, "release.pub", public_half(RELEASE).pem)
    found = {each.role: each.reason.partition(", found ")[2].split()[-2:] for each in change.unvouched}
    fingerprint = f"{public_half(BACKUP).fingerprint[:12]}…"
    assert found == {"current": ["by", fingerprint], "previous": ["unsigned", "bundle"]}


@pytest.mark.parametrize("which", ["backup", "again", public_half(BACKUP).fingerprint[:8]])
def test_a_key_goes_under_all_of_its_names(store: Path, bundles: list[Path], which: str) -> None:
    """It leaked, and its file was put there by hand once more."""
    shutil.copy(store / "trust" / "backup.pub", store / "trust" / "again.pub")
    change = distrust_key(store, which, also_the_last=False)
    assert [known.name for known in read_trusted_keys(store / "trust")] == ["release"]
    assert [each.digest for each in change.unvouched] == [digest_of(bundles[1])]
    shutil.copy(store / "trust" / "release.pub", store / "trust" / "again.pub")
    with pytest.raises(UsageError, match="is the last"):
        distrust_key(store, "again", also_the_last=False)
    distrust_key(store, "again", also_the_last=True)
    assert status(store).keys_problem == ""


def test_a_flash_says_when_nothing_goes_back_to_the_one_before(
    store: Path, bundles: list[Path], tmp_path: Path
) -> None:
    remove_key(store / "trust", "backup", also_the_last=False)
    outcome = install(bundles[2], store)
    assert "expected a signature by release" in outcome.previous_unvouched
    assert "nothing goes back to it" in outcome_summary("store", outcome, 1.0, 0, 0)
    assert "rollback" not in outcome_summary("store", outcome, 1.0, 0, 0)
    outcome = install(released(tmp_path / "fourth", 4, RELEASE), store)
    assert outcome.previous_unvouched == ""
    assert "edgephi rollback store` goes back to it" in outcome_summary("store", outcome, 1.0, 0, 0)


def test_without_the_last_key_nobody_asks(store: Path) -> None:
    distrust_key(store, "backup", also_the_last=False)
    assert distrust_key(store, "release", also_the_last=True).unvouched == ()
    assert not any(each.unvouched for each in status(store).generations)


def test_nobody_vouches_for_anything_while_the_keys_are_lost(store: Path) -> None:
    shutil.rmtree(store / "trust")
    found = status(store)
    assert "expected the keys that this store has had, found no such folder" in found.keys_problem
    assert [each.unvouched for each in found.generations] == [found.keys_problem] * 3


def test_a_damaged_signature_vouches_for_nothing(store: Path) -> None:
    (store / "current" / "bundle.dsse.json").chmod(0o644)
    (store / "current" / "bundle.dsse.json").write_bytes(b"{}")
    assert by_role(store)["current"].unvouched.startswith("bundle.dsse.json: expected")
    assert by_role(store)["previous"].unvouched == ""


def test_no_recovery_makes_a_bundle_active_that_no_key_vouches_for(store: Path, bundles: list[Path]) -> None:
    """The active one is lost: the one before takes its place, once a key vouches for it again."""
    shutil.rmtree(store / "gens" / digest_of(bundles[2]))
    lost = store.with_name("lost")
    subprocess.run(["cp", "--archive", store, lost], check=True)
    assert by_role(store)["current"].digest == digest_of(bundles[1])
    remove_key(lost / "trust", "backup", also_the_last=False)
    assert set(by_role(lost)) == {"previous", "other"}
    with pytest.raises(BadBundleError, match="found an empty one"):
        open_bundle(lost)
    trust_key(lost, "backup.pub", public_half(BACKUP).pem)
    assert open_bundle(lost).name == digest_of(bundles[1])


def test_a_device_that_cannot_check_signatures_says_so(store: Path) -> None:
    code = (
        "import sys; sys.modules['ecdsa'] = None\n"
        "from pathlib import Path\n"
        "from edgephi.store.status import status\n"
        "print(status(Path(sys.argv[1])).generations[0].unvouched)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(store)], capture_output=True, text=True, check=True
    )
    assert "checking signatures needs ecdsa, which is not installed" in done.stdout
