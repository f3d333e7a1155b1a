"""Who may take the locks, who waits for whom and for how long, and who is told."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgephi.bundle.unfinished import unfinished_bundle
from edgephi.checkpoint.hub import large_file
from edgephi.errors import StoreBusyError, TransportError
from edgephi.processes.file_lock import open_lock
from edgephi.store.disk.layout import Layout
from edgephi.store.disk.lock import StoreLock
from edgephi.store.garbage import collect_garbage
from edgephi.store.opening import open_bundle
from edgephi.store.status import status
from tests.second_user import (
    NOBODY,
    as_nobody,
    edgephi_as_nobody,
    folder_for_all,
    locked_by_nobody,
    umask,
    with_second_user,
)
from tests.store.bundles import digest_of
from tests.store.conftest import UNPROVEN, install
from tests.store.faults.box import Box
from tests.store.faults.processes import ended, started

A_SECOND_SLOWER = """
import edgephi.store.disk.file_system as tried
import time
before = tried._try
def slowly(layout):
    before(layout)
    time.sleep(1)
tried._try = slowly
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder into which another user may look."""
    with_second_user()
    with folder_for_all() as folder:
        yield folder


class Steps:
    """Remembers the steps that it is told."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    @contextlib.contextmanager
    def step(self, title: str, _size: int) -> Iterator[Callable[[int], None]]:
        self.titles.append(title)
        yield lambda _units: None


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestOfTheirOwnerAlone:
    def test_every_lock_that_is_made(self, first: Path, tmp_path: Path) -> None:
        with umask(0):
            install(first, tmp_path / "store")
            with unfinished_bundle(tmp_path / "bundle", needs_bytes=0):
                assert mode(tmp_path / ".bundle.lock") == 0o600
            with large_file._locked(tmp_path / "blob.incomplete", name="a/b", progress=False):
                assert mode(tmp_path / "blob.incomplete") == 0o600
        assert mode(tmp_path / "store" / "lock") == 0o600

    def test_a_lock_that_others_could_open_is_closed_to_them(self, first: Path, tmp_path: Path) -> None:
        install(first, tmp_path)
        (tmp_path / "lock").chmod(0o666)
        status(tmp_path)
        assert mode(tmp_path / "lock") == 0o600

    def test_another_user_cannot_keep_a_store_from_its_owner(self, first: Path, place: Path) -> None:
        store = place / "store"
        install(first, store)
        refused = subprocess.run(
            as_nobody("flock", "-n", store / "lock", "true"), capture_output=True, text=True, check=False
        )
        assert refused.returncode and "Permission denied" in refused.stderr
        install(first, store)

    def test_a_link_in_the_place_of_a_lock_is_not_followed(self, first: Path, tmp_path: Path) -> None:
        """Root would empty, and close to others, whatever it leads to."""
        install(first, tmp_path / "store")
        (tmp_path / "letter").write_text("dear")
        lock = tmp_path / "store" / "lock"
        lock.unlink()
        lock.symlink_to(tmp_path / "letter")
        with pytest.raises(Exception, match="lock: "):
            collect_garbage(tmp_path / "store")
        assert (tmp_path / "letter").read_text() == "dear"

    def test_a_name_that_comes_and_goes_gives_away_no_file_of_roots(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The folder's owner has a second name there for a file of root's, until root has opened it."""
        with_second_user()
        theirs, secret = tmp_path / "theirs", tmp_path / "secret"
        theirs.mkdir()
        os.chown(theirs, NOBODY, NOBODY)
        secret.write_text("root's")
        secret.chmod(0o644)
        (theirs / "lock").hardlink_to(secret)
        opened = os.open

        def gone_then(*words: Any, **options: Any) -> int:
            descriptor = opened(*words, **options)
            (theirs / "lock").unlink(missing_ok=True)
            return descriptor

        monkeypatch.setattr(os, "open", gone_then)
        os.close(open_lock(theirs / "lock"))
        facts = secret.stat()
        assert (facts.st_uid, stat.S_IMODE(facts.st_mode)) == (0, 0o644)

    def test_what_root_makes_in_the_folder_of_another_user_is_that_ones(self, place: Path) -> None:
        from edgephi.processes.file_lock import open_lock

        theirs = place / "theirs"
        theirs.mkdir()
        os.chown(theirs, 65534, 65534)
        os.close(open_lock(theirs / "lock"))
        assert (theirs / "lock").stat().st_uid == 65534
        assert mode(theirs / "lock") == 0o600


class TestWhoHoldsIt:
    def test_another_user_is_named(self, first: Path, place: Path) -> None:
        store = place / "store"
        install(first, store)
        (store / "lock").chmod(0o644)  # as an older edgephi left it
        with locked_by_nobody(store / "lock") as pid:
            who = rf"process {pid} \(user nobody, `sleep 600`\) changes this store"
            steps = Steps()
            with pytest.raises(StoreBusyError, match=who):
                collect_garbage(store, lock_wait_seconds=0.3, step=steps.step)
            assert steps.titles == [f"wait for process {pid} (user nobody, `sleep 600`)"]

    def test_a_command_is_told_as_it_was_typed(self, first: Path, tmp_path: Path) -> None:
        from edgephi.processes.file_lock import holder_of

        install(first, tmp_path)
        command = [sys.executable, "-P", "-m", "edgephi.cli", "flash", str(first), str(tmp_path)]
        with started(command) as process:
            found = None
            while (found is None or found.pid != process.pid) and process.poll() is None:
                found = holder_of(tmp_path / "lock")
        assert found is not None and found.command.startswith(f"edgephi flash {first}"[:80])

    def test_a_user_who_may_not_open_the_lock_is_told_too(self, first: Path, place: Path) -> None:
        store = place / "store"
        install(first, store)
        with StoreLock.take(Layout(store), "flash"):
            seen = edgephi_as_nobody("status", store)
            assert seen.returncode == 0, seen.stderr
            assert "demo-cpu" in seen.stdout


class TestWaiting:
    def test_for_the_one_that_is_at_work(self, first: Path, tmp_path: Path) -> None:
        install(first, tmp_path)
        lock = StoreLock.take(Layout(tmp_path), "test")
        threading.Timer(0.5, lock.close).start()
        steps = Steps()
        assert collect_garbage(tmp_path, lock_wait_seconds=60, step=steps.step).generations == ()
        assert steps.titles[0].startswith(f"wait for process {os.getpid()} (user ")

    def test_a_download_is_waited_for_while_it_gets_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from edgephi.processes.file_lock import open_lock, try_lock

        monkeypatch.setattr(large_file, "_STALLED_SECONDS", 1.0)
        partial = tmp_path / "blob.incomplete"
        descriptor = open_lock(partial)
        assert try_lock(descriptor)

        def receive() -> None:
            for _ in range(4):  # longer than one may stand still
                time.sleep(0.4)
                with partial.open("ab") as file:
                    file.write(b"more")
            os.close(descriptor)

        thread = threading.Thread(target=receive)
        thread.start()
        with large_file._locked(partial, name="a/b", progress=False):
            assert partial.read_bytes() == b"more" * 4
        thread.join()

    def test_a_download_that_stands_still_is_given_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from edgephi.processes.file_lock import open_lock, try_lock

        monkeypatch.setattr(large_file, "_STALLED_SECONDS", 0.3)
        descriptor = open_lock(tmp_path / "blob")
        assert try_lock(descriptor)
        with (
            pytest.raises(TransportError, match=rf"a/b: process {os.getpid()} .* received nothing"),
            large_file._locked(tmp_path / "blob", name="a/b", progress=False),
        ):
            raise AssertionError("it must not come to this")
        os.close(descriptor)


class TestReaders:
    def test_another_user_cannot_keep_a_bundle_from_running(self, first: Path, place: Path) -> None:
        store = place / "store"
        install(first, store)
        with locked_by_nobody(store / "gens" / digest_of(first)):
            begin = time.monotonic()
            assert open_bundle(store).name == digest_of(first)
            assert time.monotonic() - begin < 10
            assert collect_garbage(store).generations == ()

    def test_what_another_user_holds_is_kept_and_refuses_no_update(
        self, first: Path, second: Path, place: Path
    ) -> None:
        store = place / "store"
        install(first, store)
        with locked_by_nobody(store / "gens" / digest_of(first)):
            for sequence in (second, first):
                install(sequence, store, dataclasses.replace(UNPROVEN, allow_downgrade=True))
            assert collect_garbage(store).generations == ()


class TestTheFirstFlash:
    def test_two_at_once_both_succeed(self, first: Path, tmp_path: Path) -> None:
        box = Box(tmp_path / "store", A_SECOND_SLOWER)
        with started(box.flash_command(first, "--elsewhere", "--json")) as one:
            while not box.root.exists():
                time.sleep(0.02)
            time.sleep(0.2)
            with started(Box(box.root).flash_command(first, "--elsewhere", "--json")) as other:
                done = [ended(one), ended(other)]
        assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
        assert [json.loads(each.stdout)["was_current"] for each in done] == [False, True]
        assert f"wait for process {one.pid} (user " in done[1].stderr
        assert box.check() == digest_of(first)

    def test_one_that_was_refused_is_out_of_the_way(self, first: Path, tmp_path: Path) -> None:
        """The lock's file goes with it: whoever waits makes another."""
        refuse = "import edgephi.store.disk.file_system as tried, time\ndef no(layout):\n    time.sleep(1)\n"
        refuse += "    raise OSError(95, 'Operation not supported')\ntried._try = no\n"
        box = Box(tmp_path / "store", refuse)
        with started(box.flash_command(first, "--elsewhere")) as one:
            while not box.root.exists():
                time.sleep(0.02)
            time.sleep(0.2)
            done = Box(box.root).flash(first, "--elsewhere")
            assert ended(one).returncode == 3
        assert done.returncode == 0, done.stderr
        assert box.check() == digest_of(first)

    def test_a_disk_that_does_not_tell_is_an_error_of_the_disk(self, first: Path, tmp_path: Path) -> None:
        """Nothing is told of a state that cannot be looked for, and the lock is let go of."""
        fail = "import pathlib\nlook = pathlib.Path.exists\ndef exists(path, **options):\n"
        fail += "    if path.name == 'state.json':\n        raise OSError(5, 'Input/output error')\n"
        fail += "    return look(path, **options)\npathlib.Path.exists = exists\n"
        done = Box(tmp_path / "store", fail).flash(first, "--elsewhere")
        assert done.returncode == 6 and "Input/output error" in done.stderr, done.stderr
        assert "bug" not in done.stderr
        assert Box(tmp_path / "store").flash(first, "--elsewhere").returncode == 0
