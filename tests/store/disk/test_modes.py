"""Who may read a store: everybody, as its service must, whatever the umask of whoever flashed it."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from edgephi.errors import BadBundleError
from edgephi.flash.folder import flash_source, folder_source
from edgephi.store.garbage import collect_garbage
from edgephi.store.rollback import roll_back
from edgephi.store.status import status
from tests.second_user import edgephi_as_nobody, folder_for_all, umask, with_second_user
from tests.store.bundles import BALLAST
from tests.store.conftest import UNPROVEN, install
from tests.store.test_install import begin, send

OURS_ALONE = {"lock"}


@pytest.mark.parametrize("mask", [0o077, 0o027, 0o000])
def test_all_that_a_store_makes_is_readable_for_its_service_and_writable_for_its_owner(
    first: Path, second: Path, tmp_path: Path, mask: int
) -> None:
    store = tmp_path / "store"
    with umask(mask):
        install(first, store)
        install(second, store)
        roll_back(store, prove=False)
        status(store, scrub_too=True)
        collect_garbage(store)
        (store / "current" / "bundle.json").unlink()
        install(first, store)
    for path in (store, *store.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.name in OURS_ALONE:
            assert mode == 0o600
        elif path.is_dir():
            assert mode == 0o755, path
        else:
            assert mode in (0o444, 0o644), path


def test_another_user_runs_what_root_has_flashed_under_umask_077(demo_bundle: Path, second: Path) -> None:
    with_second_user()
    with folder_for_all() as place:
        store = place / "store"
        with umask(0o077):
            install(demo_bundle, store)
            with begin(second, store) as transfer:  # root is at work in it
                send(second, transfer, most=2)
                ran = edgephi_as_nobody("run", store, "turn on the kitchen light")
                seen = edgephi_as_nobody("status", store)
        assert ran.returncode == 0, ran.stderr
        assert "turn_on" in ran.stdout
        assert seen.returncode == 0, seen.stderr
        assert "right now: flash" not in seen.stdout, "only its owner may read the lock"
        assert "right now: process " in seen.stdout


def test_what_may_not_be_the_bundles_is_its_owners_alone(first: Path, tmp_path: Path) -> None:
    """A link that comes after the bundle was looked at leads to a file that nobody else may read."""
    bundle, root, secret = tmp_path / "bundle", tmp_path / "store", tmp_path / "secret"
    shutil.copytree(first, bundle)
    source = folder_source(bundle)
    secret.write_bytes(b"nobody's business" * (1 + (bundle / BALLAST).stat().st_size // 17))
    (bundle / BALLAST).unlink()
    (bundle / BALLAST).symlink_to(secret)
    with pytest.raises(BadBundleError):
        flash_source(source, root, UNPROVEN)
    open_to_others = [path for path in root.rglob("*") if path.is_file() and path.stat().st_mode & 0o044]
    assert open_to_others
    assert not any(b"nobody's business" in path.read_bytes() for path in open_to_others)
    install(first, root)
    assert list((root / "parts").iterdir()) == []
