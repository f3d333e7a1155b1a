"""`check_install` says what a flash then does, and leaves everything as it was."""

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgephi.bundle.manifest import read_manifest
from edgephi.errors import EdgephiError
from edgephi.flash.folder import check_source, folder_source
from edgephi.flash.signing.sign import sign_bundle
from edgephi.store.check import Checked
from edgephi.store.disk.layout import Layout
from edgephi.store.install import Install
from edgephi.store.preflight import InstallOptions
from tests.store.bundles import BALLAST, digest_of, flip_bit, remade
from tests.store.conftest import UNPROVEN, install

Snapshot = dict[Path, tuple[int, ...]]


def snapshot(folder: Path) -> Snapshot:
    """All that a write to any file of a folder changes."""
    facts = {path: path.lstat() for path in (folder, *folder.rglob("*"))}
    return {
        path: (each.st_ino, each.st_mode, each.st_size, each.st_mtime_ns, each.st_ctime_ns, each.st_nlink)
        for path, each in facts.items()
    }


def check(bundle: Path, root: Path, options: InstallOptions = UNPROVEN) -> Checked:
    """Check a bundle against a store, which must stay as it is."""
    before = snapshot(root.parent)
    try:
        return check_source(folder_source(bundle), root, options)
    finally:
        assert snapshot(root.parent) == before


def agrees(bundle: Path, root: Path) -> Checked:
    """What a check said, when the flash after it did that very thing."""
    said = check(bundle, root)
    done = install(bundle, root)
    assert (said.digest, said.name, said.sequence) == (done.digest, done.name, done.sequence)
    assert (said.sent_bytes, said.saved_bytes) == (done.sent_bytes, done.saved_bytes)
    assert (said.changed, said.signer) == (done.changed, done.signer)
    return said


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where a store may be made; not there yet."""
    (tmp_path / "device").mkdir()
    return tmp_path / "device" / "store"


def test_nothing_is_there_yet(first: Path, root: Path) -> None:
    said = agrees(first, root)
    total = sum(entry.size for entry in read_manifest(first).files)
    assert (said.sent_bytes, said.saved_bytes, said.active, said.changed) == (total, 0, None, True)


def test_the_next_release_needs_only_its_new_chunks(first: Path, second: Path, root: Path) -> None:
    install(first, root)
    said = agrees(second, root)
    assert 0 < said.sent_bytes < said.saved_bytes
    assert said.active == digest_of(first)


def test_the_same_again_changes_nothing(first: Path, root: Path) -> None:
    install(first, root)
    said = agrees(first, root)
    assert (said.sent_bytes, said.changed, said.active) == (0, False, digest_of(first))


def test_a_flipped_bit_is_seen(first: Path, root: Path) -> None:
    install(first, root)
    path = root / "current" / BALLAST
    path.chmod(0o644)
    flip_bit(path, 3_000_000)
    said = agrees(first, root)
    assert said.changed
    assert 0 < said.sent_bytes < 2 << 20


def test_a_file_that_is_lost_is_seen_also_when_it_is_empty(first: Path, root: Path, tmp_path: Path) -> None:
    bundle = remade(first, tmp_path / "bundle", {"model/empty.txt": b""})
    install(bundle, root)
    path = root / "current" / "model" / "empty.txt"
    Layout(root).object(next(e.sha256 for e in read_manifest(bundle).files if not e.size)).unlink()
    path.unlink()
    said = agrees(bundle, root)
    assert (said.sent_bytes, said.changed) == (0, True)


def test_what_has_arrived_of_a_cut_transfer_counts(first: Path, root: Path) -> None:
    source = folder_source(first)
    with Install.begin(root, source.manifest, None, options=UNPROVEN) as cut:
        file = next(each for each in cut.wanted if each.path == BALLAST)
        offset, data = next(iter(source.read_chunks(file)))
        cut.write(file.sha256, offset, data)
        cut.acknowledge()
    with Layout(root).journal.open("a") as journal:
        journal.write("a line that was cut")
    said = agrees(first, root)
    assert said.saved_bytes == file.chunks[0].size


def test_a_signature_that_came_later_is_a_change(first: Path, root: Path, tmp_path: Path) -> None:
    install(first, root)
    signed = Path(shutil.copytree(first, tmp_path / "signed"))
    sign_bundle(signed, Ed25519PrivateKey.generate())
    assert agrees(signed, root).changed
    assert not agrees(signed, root).changed


def test_what_flash_refuses_is_refused_alike(first: Path, second: Path, root: Path, tmp_path: Path) -> None:
    install(second, root)
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "letter.txt").touch()
    for bundle, place in ((first, root), (first, stranger), (first, tmp_path / "no" / "where")):
        before = snapshot(tmp_path)
        with pytest.raises(EdgephiError) as checked:
            check_source(folder_source(bundle), place, UNPROVEN)
        assert snapshot(tmp_path) == before
        with pytest.raises(type(checked.value)) as flashed:
            install(bundle, place)
        assert checked.value.message == flashed.value.message
    assert check(first, root, InstallOptions(prove=False, allow_downgrade=True)).changed
