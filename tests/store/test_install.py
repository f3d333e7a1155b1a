"""Installing: what a store looks like afterwards, what is sent, and what a cut costs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from edgephi.bundle.chunks import CHUNK_BYTES, LARGEST_CHUNK_BYTES, FileEntry
from edgephi.bundle.files import check_files
from edgephi.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME, encode_manifest, read_manifest
from edgephi.errors import BadBundleError, EdgephiError, StoreBusyError, UsageError
from edgephi.store.disk.layout import Layout
from edgephi.store.disk.lock import StoreLock
from edgephi.store.install import Install, WantedFile
from edgephi.store.preflight import InstallOptions
from edgephi.store.state import read_state
from tests.bundle.tiny import tiny_manifest
from tests.store.bundles import BALLAST, digest_of, flip_bit, remade
from tests.store.conftest import UNPROVEN, install


def begin(bundle: Path, root: Path, options: InstallOptions = UNPROVEN) -> Install:
    return Install.begin(root, (bundle / MANIFEST_NAME).read_bytes(), None, options=options)


def send(bundle: Path, transfer: Install, *, most: int = 1 << 60) -> int:
    """Write at most `most` chunks of a bundle. Returns how many there were to write."""
    count = 0
    for file in transfer.wanted:
        data = (bundle / file.path).read_bytes()
        for chunk in file.chunks:
            if count < most:
                transfer.write(file.sha256, chunk.offset, data[chunk.offset : chunk.offset + chunk.size])
            count += 1
    return count


def wanted(bundle: Path, root: Path) -> int:
    """How many bytes of a bundle a store would have sent."""
    with begin(bundle, root) as transfer:
        return transfer.wanted_bytes


class TestAfterwards:
    def test_current_leads_to_the_bundle_with_real_names_and_files(self, first: Path, tmp_path: Path) -> None:
        outcome = install(first, tmp_path / "store")
        current = tmp_path / "store" / "current"
        assert str(current.readlink()) == f"gens/{digest_of(first)}" == f"gens/{outcome.digest}"
        assert (current / MANIFEST_NAME).read_bytes() == (first / MANIFEST_NAME).read_bytes()
        check_files(current, read_manifest(current))

    def test_files_are_read_only_objects_under_their_sha256(self, first: Path, tmp_path: Path) -> None:
        install(first, tmp_path)
        layout = Layout(tmp_path)
        manifest = read_manifest(first)
        for entry in manifest.files:
            path = layout.current / entry.path
            assert path.samefile(layout.object(entry.sha256))
            assert path.stat().st_mode & 0o777 == 0o444
        assert {path.name for path in layout.objects.iterdir()} == {each.sha256 for each in manifest.files}

    def test_nothing_unfinished_is_left(self, first: Path, tmp_path: Path) -> None:
        install(first, tmp_path)
        names = {path.name for path in tmp_path.rglob("*")}
        assert list(Layout(tmp_path).parts.iterdir()) == []
        assert not [name for name in names if name.startswith(".") or name.endswith(".new")]

    def test_the_state_says_what_the_links_say(self, first: Path, second: Path, tmp_path: Path) -> None:
        install(first, tmp_path)
        outcome = install(second, tmp_path)
        state = read_state(Layout(tmp_path))
        assert (state.current, state.previous, state.trial) == (digest_of(second), digest_of(first), None)
        assert outcome.previous == digest_of(first)
        assert str((tmp_path / "previous").readlink()) == f"gens/{digest_of(first)}"
        assert state.sequence_floor == {"demo-cpu": 2}

    def test_a_signature_lies_beside_the_manifest(self, first: Path, tmp_path: Path) -> None:
        """Nobody is trusted here, so nobody asks for it; who mounts the store elsewhere may."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        from edgephi.flash.signing.sign import sign_bundle

        store = tmp_path / "store"
        install(first, store)
        bundle = shutil.copytree(first, tmp_path / "signed")
        sign_bundle(bundle, Ed25519PrivateKey.from_private_bytes(bytes(32)))
        install(bundle, store)
        signature = (bundle / SIGNATURE_NAME).read_bytes()
        assert (store / "current" / SIGNATURE_NAME).read_bytes() == signature
        check_files(store / "current", read_manifest(bundle))

    def test_two_names_of_one_content_are_one_object(self, first: Path, tmp_path: Path) -> None:
        twice = remade(first, tmp_path / "twice", {"model/again.bin": (first / BALLAST).read_bytes()})
        outcome = install(twice, tmp_path / "store")
        ballast = (first / BALLAST).stat().st_size
        assert outcome.saved_bytes == ballast
        assert (tmp_path / "store/current" / BALLAST).samefile(tmp_path / "store/current/model/again.bin")

    def test_an_empty_file_is_one_too(self, first: Path, tmp_path: Path) -> None:
        bundle = remade(first, tmp_path / "bundle", {"model/empty.txt": b""})
        install(bundle, tmp_path / "store")
        assert (tmp_path / "store/current/model/empty.txt").read_bytes() == b""


class TestWhatIsSent:
    def test_all_of_the_first_bundle(self, first: Path, tmp_path: Path) -> None:
        outcome = install(first, tmp_path)
        total = sum(entry.size for entry in read_manifest(first).files)
        assert (outcome.sent_bytes, outcome.saved_bytes, outcome.was_current) == (total, 0, False)

    def test_nothing_of_the_same_again(self, first: Path, tmp_path: Path) -> None:
        install(first, tmp_path)
        before = (tmp_path / "state.json").stat()
        outcome = install(first, tmp_path)
        assert (outcome.sent_bytes, outcome.was_current) == (0, True)
        assert outcome.saved_bytes == sum(entry.size for entry in read_manifest(first).files)
        assert (tmp_path / "state.json").stat().st_ino == before.st_ino, "an idle flash wears the disk out"

    def test_only_new_chunks_of_the_next_release(self, first: Path, second: Path, tmp_path: Path) -> None:
        """Every chunk behind a header that grew lies elsewhere now, and is found all the same."""
        install(first, tmp_path)
        assert install(second, tmp_path).sent_bytes == 3000
        assert (tmp_path / "current" / BALLAST).read_bytes() == (second / BALLAST).read_bytes()

    def test_nothing_of_a_bundle_that_is_there_but_not_current(
        self, first: Path, second: Path, tmp_path: Path
    ) -> None:
        install(first, tmp_path)
        install(second, tmp_path)
        back = dataclasses.replace(UNPROVEN, allow_downgrade=True)
        outcome = install(first, tmp_path, back)
        assert (outcome.sent_bytes, outcome.previous) == (0, digest_of(second))


class TestACut:
    def test_what_was_acknowledged_is_never_sent_again(self, first: Path, tmp_path: Path) -> None:
        with begin(first, tmp_path) as transfer:
            everything = transfer.wanted_bytes
            send(first, transfer, most=3)
            assert transfer.acknowledge() == everything - wanted_after_close(transfer, first, tmp_path)
        outcome = install(first, tmp_path)
        assert outcome.sent_bytes < everything
        assert (tmp_path / "current" / BALLAST).read_bytes() == (first / BALLAST).read_bytes()

    def test_what_was_not_acknowledged_is(self, first: Path, tmp_path: Path) -> None:
        everything = wanted(first, tmp_path)
        with begin(first, tmp_path) as transfer:
            send(first, transfer, most=3)
        assert wanted(first, tmp_path) == everything

    def test_a_part_that_lost_its_end_costs_what_it_lost(self, first: Path, tmp_path: Path) -> None:
        sha256 = self._acknowledged(first, tmp_path)
        os.truncate(Layout(tmp_path).part(sha256), 4 * CHUNK_BYTES + 17)
        assert wanted(first, tmp_path) == 2 * CHUNK_BYTES

    def test_a_part_with_a_flipped_bit_costs_a_chunk(self, first: Path, tmp_path: Path) -> None:
        sha256 = self._acknowledged(first, tmp_path)
        flip_bit(Layout(tmp_path).part(sha256), 3 * CHUNK_BYTES + 17)
        assert wanted(first, tmp_path) == CHUNK_BYTES

    def test_a_journal_that_was_cut_costs_what_it_forgot(self, first: Path, tmp_path: Path) -> None:
        self._acknowledged(first, tmp_path)
        journal = Layout(tmp_path).journal
        os.truncate(journal, journal.stat().st_size - 10)
        assert 0 < wanted(first, tmp_path) <= CHUNK_BYTES
        assert journal.read_bytes().endswith(b"\n"), "the next line would be joined to a piece of another"
        assert install(first, tmp_path).sent_bytes <= CHUNK_BYTES

    def test_another_bundle_uses_what_has_arrived(self, first: Path, second: Path, tmp_path: Path) -> None:
        self._acknowledged(first, tmp_path)
        assert install(second, tmp_path).sent_bytes == 3000

    def test_finishing_without_all_chunks_is_refused(self, first: Path, tmp_path: Path) -> None:
        with begin(first, tmp_path) as transfer:
            send(first, transfer, most=3)
            with pytest.raises(BadBundleError, match="missing"):
                transfer.finish()
        assert not (tmp_path / "current").exists()

    @staticmethod
    def _acknowledged(bundle: Path, root: Path) -> str:
        """Send all of a bundle and stop before it is finished. Returns the sha256 of its ballast."""
        with begin(bundle, root) as transfer:
            send(bundle, transfer)
            transfer.acknowledge()
        return hashlib.sha256((bundle / BALLAST).read_bytes()).hexdigest()


class TestDamage:
    def test_the_same_bundle_again_mends_a_flipped_bit_with_one_chunk(
        self, first: Path, tmp_path: Path
    ) -> None:
        install(first, tmp_path)
        flip_bit(tmp_path / "current" / BALLAST, 2 * CHUNK_BYTES + 5)
        assert install(first, tmp_path).sent_bytes == CHUNK_BYTES
        check_files(tmp_path / "current", read_manifest(first))

    def test_every_generation_with_that_file_is_mended(self, first: Path, tmp_path: Path) -> None:
        later = remade(first, tmp_path / "later", {"model/notes.txt": b"new"}, sequence=2)
        store = tmp_path / "store"
        install(first, store)
        install(later, store)
        flip_bit(store / "previous" / BALLAST, 9)
        install(later, store)
        check_files(store / "previous", read_manifest(first))
        assert (store / "current" / BALLAST).samefile(store / "previous" / BALLAST)

    def test_a_new_bundle_does_not_inherit_it(self, first: Path, second: Path, tmp_path: Path) -> None:
        install(first, tmp_path)
        flip_bit(tmp_path / "current" / BALLAST, CHUNK_BYTES + 5)
        assert install(second, tmp_path).sent_bytes == 3000 + CHUNK_BYTES
        check_files(tmp_path / "current", read_manifest(second))

    def test_a_file_that_is_gone_comes_back_from_its_object(self, first: Path, tmp_path: Path) -> None:
        install(first, tmp_path)
        (tmp_path / "current" / BALLAST).unlink()
        assert install(first, tmp_path).sent_bytes == 0
        check_files(tmp_path / "current", read_manifest(first))

    def test_an_object_that_is_gone_comes_back_from_its_file(self, first: Path, tmp_path: Path) -> None:
        install(first, tmp_path)
        sha256 = hashlib.sha256((first / BALLAST).read_bytes()).hexdigest()
        Layout(tmp_path).object(sha256).unlink()
        assert install(first, tmp_path).sent_bytes == 0
        assert Layout(tmp_path).object(sha256).samefile(tmp_path / "current" / BALLAST)

    def test_a_manifest_that_changed_is_written_again(self, first: Path, tmp_path: Path) -> None:
        install(first, tmp_path)
        flip_bit(tmp_path / "current" / MANIFEST_NAME, 100)
        install(first, tmp_path)
        assert (tmp_path / "current" / MANIFEST_NAME).read_bytes() == (first / MANIFEST_NAME).read_bytes()


class TestWhatIsNotTheManifests:
    def test_a_changed_chunk_is_refused_before_it_is_written(self, first: Path, tmp_path: Path) -> None:
        with begin(first, tmp_path) as transfer:
            file, data = _ballast(first, transfer)
            chunk = file.chunks[0]
            with pytest.raises(BadBundleError, match=f"{BALLAST}.*chunk at 0"):
                transfer.write(file.sha256, 0, b"x" + data[1 : chunk.size])
            assert not Layout(tmp_path).part(file.sha256).exists()

    def test_or_with_its_file_when_that_comes_quickly(self, first: Path, tmp_path: Path) -> None:
        bundle = shutil.copytree(first, tmp_path / "bundle")
        flip_bit(bundle / BALLAST, 4 * CHUNK_BYTES)
        store = tmp_path / "store"
        everything = wanted(first, store)
        with pytest.raises(BadBundleError, match=f"{BALLAST}.*chunk at {4 * CHUNK_BYTES} .*, found [0-9a-f]"):
            install(bundle, store)
        assert not (store / "current").exists()
        assert list(Layout(store).objects.iterdir()) == []
        files = read_manifest(first).files
        arrived = sum(entry.size for entry in files if entry.path <= BALLAST)
        assert wanted(first, store) == everything - arrived + CHUNK_BYTES, "only that chunk is sent again"
        install(first, store)
        check_files(store / "current", read_manifest(first))

    def test_one_that_was_acknowledged_unseen_is_wanted_again_after_a_cut(
        self, first: Path, tmp_path: Path
    ) -> None:
        """The journal holds chunks of which nobody knows yet that they are right."""
        with begin(first, tmp_path) as transfer:
            everything = transfer.wanted_bytes
            file, data = _ballast(first, transfer)
            one, two, three, *_ = file.chunks
            for chunk in (one, two, three):
                piece = bytearray(data[chunk.offset : chunk.offset + chunk.size])
                piece[7] ^= chunk is two
                transfer.write_in_order(file.sha256, chunk.offset, bytes(piece))
            transfer.acknowledge()
        assert wanted(first, tmp_path) == everything - one.size - three.size
        assert install(first, tmp_path).saved_bytes == one.size + three.size
        check_files(tmp_path / "current", read_manifest(first))

    def test_a_buffer_is_used_again_as_soon_as_it_is_released(self, first: Path, tmp_path: Path) -> None:
        with begin(first, tmp_path) as transfer:
            buffer = memoryview(bytearray(LARGEST_CHUNK_BYTES))
            for file in transfer.wanted:
                data = (first / file.path).read_bytes()
                for chunk in file.chunks:
                    buffer[: chunk.size] = data[chunk.offset : chunk.offset + chunk.size]
                    hashing = transfer.write_in_order(file.sha256, chunk.offset, buffer[: chunk.size])
                    hashing.result(20)
                    buffer[: chunk.size] = bytes(chunk.size)
            transfer.finish()
        check_files(tmp_path / "current", read_manifest(first))

    def test_a_file_that_is_too_short_is_refused(self, first: Path, tmp_path: Path) -> None:
        bundle = shutil.copytree(first, tmp_path / "bundle")
        os.truncate(bundle / BALLAST, 2 * CHUNK_BYTES)
        with pytest.raises(BadBundleError, match=BALLAST):
            install(bundle, tmp_path / "store")

    @pytest.mark.parametrize("wrong", ["offset", "size", "file"])
    def test_a_chunk_that_nobody_wants_is_refused(self, first: Path, tmp_path: Path, wrong: str) -> None:
        with begin(first, tmp_path) as transfer:
            file = transfer.wanted[0]
            chunk = file.chunks[0]
            data = (first / file.path).read_bytes()[: chunk.size]
            arguments = {
                "offset": (file.sha256, chunk.offset + 1, data),
                "size": (file.sha256, chunk.offset, data + b"x"),
                "file": ("../" * 20 + "etc/passwd", chunk.offset, data),
            }
            with pytest.raises(BadBundleError, match="expected a chunk of the manifest"):
                transfer.write(*arguments[wrong])

    def test_a_table_of_chunks_for_another_file_is_found_out(self, first: Path, tmp_path: Path) -> None:
        """Every chunk is right and the file is not: an object's name must not lie."""
        manifest = read_manifest(first)
        lying = tuple(
            dataclasses.replace(entry, sha256="0" * 64) if entry.path == BALLAST else entry
            for entry in manifest.files
        )
        bundle = shutil.copytree(first, tmp_path / "bundle")
        changed = encode_manifest(dataclasses.replace(manifest, files=lying))
        (bundle / MANIFEST_NAME).write_bytes(changed)
        for _ in range(2):
            with pytest.raises(BadBundleError, match=f"{BALLAST}: expected sha256 0000"):
                install(bundle, tmp_path / "store")
        assert list(Layout(tmp_path / "store").objects.iterdir()) == []

    def test_an_old_bundle_without_tables_is_held_against_its_files(self, tmp_path: Path) -> None:
        """What an earlier edgephi sealed: files larger than a chunk may be, without the digests of chunks."""
        data = os.urandom(LARGEST_CHUNK_BYTES + 5)
        (tmp_path / "old/model").mkdir(parents=True)
        (tmp_path / "old/model/weights").write_bytes(data)
        entry = FileEntry("model/weights", len(data), hashlib.sha256(data).hexdigest())
        manifest = dataclasses.replace(tiny_manifest(), files=(entry,))
        (tmp_path / "old" / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
        with begin(tmp_path / "old", tmp_path / "store") as transfer:
            send(tmp_path / "old", transfer, most=2)
            transfer.acknowledge()
        outcome = install(tmp_path / "old", tmp_path / "store")
        assert 0 < outcome.sent_bytes < len(data) - CHUNK_BYTES
        assert (tmp_path / "store/current/model/weights").read_bytes() == data


class TestOneAtATime:
    def test_a_second_flash_is_told_who_works(self, first: Path, tmp_path: Path) -> None:
        with begin(first, tmp_path):
            before = (tmp_path / "lock").read_text()
            with pytest.raises(
                StoreBusyError, match=f"process {os.getpid()} \\(user .*`\\) changes this store"
            ):
                install(first, tmp_path)
            assert json.loads(before)["pid"] == os.getpid()
        install(first, tmp_path)

    def test_or_waits_for_it(self, first: Path, tmp_path: Path) -> None:
        install(first, tmp_path)
        lock = StoreLock.take(Layout(tmp_path), "test")
        with pytest.raises(StoreBusyError):
            install(first, tmp_path, dataclasses.replace(UNPROVEN, lock_wait_seconds=0.2))
        lock.close()
        install(first, tmp_path, dataclasses.replace(UNPROVEN, lock_wait_seconds=0.2))


class TestWhereAStoreMayBe:
    def test_a_new_folder_or_an_empty_one_or_a_new_file_system(self, first: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "disk" / "lost+found").mkdir(parents=True)
        for name in ("new", "empty", "disk"):
            install(first, tmp_path / name)

    def test_not_among_other_files(self, first: Path, tmp_path: Path) -> None:
        (tmp_path / "letters.txt").write_text("dear")
        with pytest.raises(UsageError, match=r"letters\.txt"):
            install(first, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]

    @pytest.mark.parametrize("name", ["no/parent", "file"])
    def test_not_where_no_folder_can_be(self, first: Path, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(EdgephiError) as refused:
            install(first, tmp_path / name)
        assert refused.value.exit_code == 2


def _ballast(bundle: Path, transfer: Install) -> tuple[WantedFile, bytes]:
    """The ballast as a transfer wants it, and its bytes."""
    (file,) = [file for file in transfer.wanted if file.path == BALLAST]
    return file, (bundle / BALLAST).read_bytes()


def wanted_after_close(transfer: Install, bundle: Path, root: Path) -> int:
    """What a store still wants once a transfer has been cut off right now."""
    transfer.acknowledge()
    transfer.close()
    return wanted(bundle, root)
