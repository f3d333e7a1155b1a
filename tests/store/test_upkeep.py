"""Status, scrub and gc."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgephi.bundle.chunks import CHUNK_BYTES
from edgephi.bundle.files import check_files
from edgephi.bundle.manifest import MANIFEST_NAME, read_manifest
from edgephi.errors import StoreBusyError
from edgephi.store.activation import mark_trial
from edgephi.store.disk.layout import Layout
from edgephi.store.disk.lock import StoreLock
from edgephi.store.garbage import collect_garbage
from edgephi.store.rollback import roll_back
from edgephi.store.state import read_state
from edgephi.store.status import status
from tests.store.bundles import BALLAST, digest_of, flip_bit, remade
from tests.store.conftest import UNPROVEN, install
from tests.store.test_install import begin, send

WITH_A_BUNDLE = """
from pathlib import Path
from edgephi.store.opening import open_bundle
{}
print()
input()
"""


@pytest.fixture
def store(first: Path, second: Path, tmp_path: Path) -> Path:
    """A store that runs the second release, and ran the first."""
    install(first, tmp_path / "store")
    install(second, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture(scope="session")
def third(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that shares nothing large with those before."""
    place = tmp_path_factory.mktemp("releases") / "third"
    return remade(first, place, {BALLAST: b"light"}, sequence=3)


@contextmanager
def process(code: str) -> Iterator[None]:
    """A process that has done `code` and goes on until the block ends."""
    running = subprocess.Popen(
        [sys.executable, "-c", WITH_A_BUNDLE.format(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert running.stdin is not None
    assert running.stdout is not None
    try:
        running.stdout.readline()
        yield
    finally:
        running.stdin.close()
        running.wait()
        running.stdout.close()


class TestGarbage:
    def test_keeps_current_and_previous(self, store: Path, first: Path, second: Path, third: Path) -> None:
        install(third, store)
        done = collect_garbage(store)
        assert done.generations == (digest_of(first),)
        for name, bundle in (("current", third), ("previous", second)):
            check_files(store / name, read_manifest(bundle))

    def test_removes_the_files_that_nobody_has_any_more(self, store: Path, third: Path) -> None:
        install(third, store)
        done = collect_garbage(store)
        assert (done.objects, done.freed_bytes) == (1, 6 * CHUNK_BYTES)
        again = collect_garbage(store)
        assert (again.generations, again.objects, again.freed_bytes) == ((), 0, 0)

    def test_a_dry_run_says_the_same_and_removes_nothing(self, store: Path, third: Path) -> None:
        install(third, store)
        before = sorted(store.rglob("*"))
        would = collect_garbage(store, dry_run=True)
        assert sorted(store.rglob("*")) == before
        assert collect_garbage(store) == would

    def test_keeps_what_one_of_our_commands_has_open(self, store: Path, first: Path, third: Path) -> None:
        old = store / "gens" / digest_of(first)
        with process(f"open_bundle(Path({str(old)!r}))"):
            assert roll_back(store, prove=False).still_open is False
            assert roll_back(store, prove=False).still_open is True, (
                "the one that was left is the first release"
            )
            install(third, store)
            done = collect_garbage(store)
            assert (done.generations, done.still_open) == ((), (digest_of(first),))
            assert status(store).generations[2].is_open
            check_files(old, read_manifest(first))
        assert collect_garbage(store).generations == (digest_of(first),)

    def test_keeps_what_any_other_program_has_open(self, store: Path, first: Path, third: Path) -> None:
        file = store / "gens" / digest_of(first) / BALLAST
        install(third, store)
        with process(f"opened = open({str(file)!r}, 'rb')"):
            assert collect_garbage(store).still_open == (digest_of(first),)
        mapped = (
            f"import mmap; f = open({str(file)!r}, 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)"
        )
        with process(f"{mapped}; f.close()"):
            assert collect_garbage(store).still_open == (digest_of(first),)

    def test_an_unfinished_transfer_goes_on_unless_it_is_given_up(self, first: Path, tmp_path: Path) -> None:
        with begin(first, tmp_path) as transfer:
            send(first, transfer, most=5)  # one is a small file
            transfer.acknowledge()
        assert collect_garbage(tmp_path).freed_bytes == 0
        assert status(tmp_path).unfinished_bytes >= 4 * CHUNK_BYTES
        assert collect_garbage(tmp_path, unfinished=True).freed_bytes >= 4 * CHUNK_BYTES
        assert status(tmp_path).unfinished_bytes == 0

    def test_keeps_the_files_of_a_generation_whose_manifest_is_broken(self, store: Path, third: Path) -> None:
        install(third, store)
        flip_bit(store / "previous" / MANIFEST_NAME, 50)
        collect_garbage(store)
        assert (store / "previous" / BALLAST).is_file()

    def test_removes_no_bundle_while_none_is_active(self, store: Path, first: Path, second: Path) -> None:
        """The state and the links are lost: what is left may be all that the device has."""
        for name in ("state.json", "current", "previous"):
            (store / name).unlink()
        assert collect_garbage(store).generations == ()
        assert {path.name for path in (store / "gens").iterdir()} == {digest_of(first), digest_of(second)}

    def test_waits_for_nobody(self, store: Path, third: Path) -> None:
        with begin(third, store), pytest.raises(StoreBusyError):
            collect_garbage(store)


class TestStatus:
    def test_lists_current_previous_and_others(
        self, store: Path, first: Path, second: Path, third: Path
    ) -> None:
        install(third, store)
        found = status(store)
        assert [(each.digest, each.role) for each in found.generations] == [
            (digest_of(third), "current"),
            (digest_of(second), "previous"),
            (digest_of(first), "other"),
        ]
        assert not any(each.problem for each in found.generations)
        assert found.stored_bytes > 12 * CHUNK_BYTES

    def test_says_who_is_at_work(self, store: Path) -> None:
        with StoreLock.take(Layout(store), "flash"):
            assert status(store).busy_with == "flash"
        assert status(store).busy_with == ""

    def test_says_what_is_missing(self, store: Path) -> None:
        (store / "current" / BALLAST).unlink()
        assert BALLAST in status(store).generations[0].problem


class TestScrub:
    def test_finds_nothing_in_a_whole_store(self, store: Path) -> None:
        assert status(store, scrub_too=True).damages == ()

    def test_names_the_chunk_of_a_flipped_bit_in_every_bundle(self, first: Path, tmp_path: Path) -> None:
        later = remade(first, tmp_path / "later", {"model/notes.txt": b"new"}, sequence=2)
        store = tmp_path / "store"
        install(first, store)
        install(later, store)
        flip_bit(store / "current" / BALLAST, 3 * CHUNK_BYTES + 1)
        damages = status(store, scrub_too=True).damages
        assert damages is not None
        assert {(each.digest, each.path, each.offset, each.size) for each in damages} == {
            (digest_of(bundle), BALLAST, 3 * CHUNK_BYTES, CHUNK_BYTES) for bundle in (first, later)
        }

    def test_is_remembered_until_it_is_mended(self, store: Path, second: Path) -> None:
        flip_bit(store / "current" / BALLAST, 1)
        status(store, scrub_too=True)
        assert "changed on the disk" in status(store).generations[0].problem
        install(second, store)
        assert read_state(Layout(store)).damaged == {}
        assert status(store, scrub_too=True).damages == ()

    def test_finds_a_manifest_that_changed(self, store: Path, second: Path) -> None:
        flip_bit(store / "current" / MANIFEST_NAME, 70)
        damages = status(store, scrub_too=True).damages
        assert damages is not None
        assert [(each.digest, each.path) for each in damages] == [(digest_of(second), MANIFEST_NAME)]

    def test_makes_a_copy_of_a_file_the_stores_own_again(self, store: Path, second: Path) -> None:
        path = store / "current" / BALLAST
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
        assert status(store, scrub_too=True).damages == ()
        sha256 = {entry.path: entry.sha256 for entry in read_manifest(second).files}[BALLAST]
        assert path.samefile(Layout(store).object(sha256))

    def test_finds_a_file_that_is_not_the_stores_own(self, store: Path, second: Path) -> None:
        path = store / "current" / BALLAST
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        damages = status(store, scrub_too=True).damages
        assert damages is not None
        assert [(each.path, each.size) for each in damages] == [(BALLAST, 0)]
        install(second, store)
        assert status(store, scrub_too=True).damages == ()


@pytest.fixture
def full_disk(store: Path, tmp_path: Path) -> Iterator[Path]:
    """That store on a disk of its own, which has no room for another byte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting: list[str | Path] = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", disk]
    if os.geteuid() or subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("needs root, to mount a small disk")
    try:
        subprocess.run(["cp", "-a", store, disk / "store"], check=True)
        yield disk / "store"
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def filled(root: Path) -> None:
    """Fill the disk of a store, to the last byte."""
    with contextlib.suppress(OSError), (root.parent / "more").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


class TestOnAFullDisk:
    def test_a_scrub_tells_what_it_finds(self, full_disk: Path, second: Path) -> None:
        """It cannot be noted for later."""
        filled(full_disk)
        assert status(full_disk, scrub_too=True).damages == ()
        flip_bit(full_disk / "current" / BALLAST, 1)
        damages = status(full_disk, scrub_too=True).damages
        assert {each.digest for each in damages or ()} == {digest_of(second)}

    def test_status_tells_of_a_store_that_cannot_be_put_right(self, full_disk: Path, second: Path) -> None:
        mark_trial(Layout(full_disk), "0" * 64)
        filled(full_disk)
        assert status(full_disk).generations[0].digest == digest_of(second)
        (full_disk.parent / "more").unlink()
        assert status(full_disk).recovery.ended_trial == "0" * 64


def test_unproven_generations_are_forgotten_with_their_files(store: Path, first: Path, third: Path) -> None:
    install(third, store, dataclasses.replace(UNPROVEN))
    assert digest_of(first) in read_state(Layout(store)).unproven
    collect_garbage(store)
    assert digest_of(first) not in read_state(Layout(store)).unproven
