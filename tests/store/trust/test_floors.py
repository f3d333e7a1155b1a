"""Which releases a store still takes: what it has had, what its operator allows, what its signer forbids."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgephi.errors import BadBundleError
from edgephi.flash.folder import flash_folder
from edgephi.flash.signing.keys import public_half
from edgephi.flash.signing.sign import sign_bundle
from edgephi.store.garbage import collect_garbage
from edgephi.store.preflight import InstallOptions
from edgephi.store.rollback import roll_back
from edgephi.store.status import status
from edgephi.store.trust.trusted_keys import TrustedKey, add_key
from tests.store.good_bundle import GOOD_FILES, good_manifest, write_bundle

KEY = Ed25519PrivateKey.from_private_bytes(bytes([5]) * 32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def trusting(root: Path) -> Path:
    """A store that checks signatures."""
    (root / "trust").mkdir(parents=True)
    add_key(root / "trust", TrustedKey("release", public_half(KEY)))
    return root


def flash(root: Path, sequence: int, *, allow_downgrade: bool = False, **changes: Any) -> None:
    """Flash a release, signed by the release key."""
    folder = root.parent / f"release-{sequence}-{len(list(root.parent.iterdir()))}"
    write_bundle(folder, good_manifest(sequence=sequence, **changes))
    sign_bundle(folder, KEY)
    flash_folder(folder, root, InstallOptions(prove=False, allow_downgrade=allow_downgrade))


def active(root: Path) -> int:
    sequence: int = json.loads((root / "current/bundle.json").read_bytes())["sequence"]
    return sequence


def test_an_older_release_needs_the_operator_s_word(root: Path) -> None:
    flash(root, 5)
    with pytest.raises(BadBundleError, match="expected release 5 or newer, which this store has had, found"):
        flash(root, 4)
    assert active(root) == 5
    flash(root, 4, allow_downgrade=True)
    assert active(root) == 4


def test_the_same_release_and_a_newer_one_are_welcome(root: Path) -> None:
    for sequence in (5, 5, 6, 100):
        flash(root, sequence)
        assert active(root) == sequence


def test_a_floor_does_not_fall_with_a_downgrade(root: Path) -> None:
    flash(root, 5)
    flash(root, 3, allow_downgrade=True)
    with pytest.raises(BadBundleError, match="expected release 5 or newer"):
        flash(root, 4)


def test_each_name_has_its_own_floor(root: Path) -> None:
    flash(root, 5)
    flash(root, 1, name="another")
    assert active(root) == 1


def test_nothing_goes_below_the_security_floor(trusting: Path) -> None:
    flash(trusting, 5, security_floor=4)
    flash(trusting, 4, allow_downgrade=True)
    with pytest.raises(BadBundleError, match="expected release 4 or newer, the security floor") as refused:
        flash(trusting, 3, allow_downgrade=True)
    assert refused.value.exit_code == 4
    assert active(trusting) == 4


def test_a_later_release_cannot_lower_the_security_floor(trusting: Path) -> None:
    flash(trusting, 5, security_floor=4)
    flash(trusting, 6)
    with pytest.raises(BadBundleError, match="the security floor"):
        flash(trusting, 3, allow_downgrade=True)


def test_where_nobody_is_trusted_nobody_raises_the_security_floor(root: Path) -> None:
    flash(root, 5, security_floor=5)
    flash(root, 3, allow_downgrade=True)
    assert active(root) == 3


def test_a_release_that_was_refused_raises_nothing(trusting: Path) -> None:
    flash(trusting, 1)
    damaged = {**GOOD_FILES, "model/model.onnx": b"no graph"}
    folder = trusting.parent / "damaged"
    write_bundle(folder, good_manifest(damaged, sequence=9, security_floor=9), damaged)
    sign_bundle(folder, KEY)
    with pytest.raises(BadBundleError, match="expected an ONNX graph"):
        flash_folder(folder, trusting, InstallOptions(prove=False))
    flash(trusting, 2)
    assert active(trusting) == 2


def test_roll_back_stops_at_the_security_floor(trusting: Path) -> None:
    flash(trusting, 4)
    flash(trusting, 5)
    roll_back(trusting, prove=False)
    assert active(trusting) == 4
    roll_back(trusting, prove=False)
    flash(trusting, 6, security_floor=6)
    with pytest.raises(BadBundleError, match="expected release 6 or newer, the security floor"):
        roll_back(trusting, prove=False)
    assert active(trusting) == 6


def test_floors_outlive_the_bundles(trusting: Path) -> None:
    flash(trusting, 7, security_floor=6)
    for name in ("x", "y"):
        flash(trusting, 1, name=name)
    collect_garbage(trusting)
    with pytest.raises(BadBundleError, match="expected release 7 or newer"):
        flash(trusting, 6)
    with pytest.raises(BadBundleError, match="the security floor"):
        flash(trusting, 5, allow_downgrade=True)


def test_floors_are_found_again_when_the_state_is_lost(trusting: Path) -> None:
    flash(trusting, 7, security_floor=6)
    (trusting / "state.json").unlink()
    status(trusting)
    with pytest.raises(BadBundleError, match="the security floor"):
        flash(trusting, 5, allow_downgrade=True)
    with pytest.raises(BadBundleError, match="expected release 7 or newer"):
        flash(trusting, 6)


def test_the_command_allows_what_its_option_says(root: Path) -> None:
    flash(root, 5)
    older = root.parent / "older"
    write_bundle(older, good_manifest(sequence=4))
    command = [sys.executable, "-m", "edgephi.cli", "flash", str(older), str(root), "--elsewhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, active(root)) == (4, 5)
    assert "--allow-downgrade" in done.stderr
    subprocess.run([*command, "--allow-downgrade"], check=True, capture_output=True)
    assert active(root) == 4
