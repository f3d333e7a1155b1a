"""Stores that another program has copied, or laid under a layer: what they need of links is made again."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgephi.errors import BadInputError
from edgephi.store.disk import durable
from edgephi.store.garbage import collect_garbage
from edgephi.store.opening import open_bundle
from edgephi.store.rollback import roll_back
from edgephi.store.status import status
from tests.store.bundles import BALLAST, digest_of, flip_bit, remade
from tests.store.conftest import install
from tests.store.faults.box import Box, check_generation, must_succeed


@pytest.fixture
def store(first: Path, second: Path, tmp_path: Path) -> Path:
    """A store that runs the second release, and ran the first."""
    for bundle in (first, second):
        install(bundle, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture(scope="session")
def third(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release whose files but one are those of the others."""
    place = tmp_path_factory.mktemp("releases") / "third"
    return remade(first, place, {BALLAST: b"light"}, sequence=3)


def unmount(place: str | Path) -> None:
    subprocess.run(["umount", "-l", place], check=True)


@contextlib.contextmanager
def overlaid(lower: Path, place: Path) -> Iterator[Path]:
    """A folder as the lower layer of a real overlay whose upper one is empty, as a read-only image has it."""
    if os.geteuid():
        pytest.skip("needs root, to mount an overlay")
    upper, work, merged = place / "layers" / "upper", place / "layers" / "work", place / "merged"
    for folder in (place / "layers", merged):
        folder.mkdir()
    commands: list[list[str | Path]] = [["mount", "-t", "tmpfs", "tmpfs", place / "layers"]]
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    commands.append(["mount", "-t", "overlay", "overlay", "-o", options, merged])
    with contextlib.ExitStack() as mounts:
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"needs to mount an overlay: {done.stderr.strip()}")
            mounts.callback(unmount, command[-1])
            for folder in (upper, work):
                folder.mkdir(exist_ok=True)
        yield merged


def is_whole(root: Path, *, current: Path, previous: Path) -> None:
    """Hold a store against what must be active in it, by code that is not the store's, and by a scrub."""
    box = Box(root)
    for name, bundle in (("current", current), ("previous", previous)):
        assert str((root / name).readlink()) == f"gens/{digest_of(bundle)}"
        check_generation(root / "gens" / digest_of(bundle))
    assert box.check() == digest_of(current)
    assert status(root, scrub_too=True).damages == ()
    assert box.leftovers() == []


class TestOverlay:
    def test_a_store_in_the_lower_layer_does_all_that_others_do(
        self,
        store: Path,
        first: Path,
        second: Path,
        third: Path,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:
        before = sorted((path, path.lstat().st_mtime_ns) for path in store.rglob("*"))
        with overlaid(store.parent, tmp_path_factory.mktemp("overlay")) as merged:
            root = merged / "store"
            must_succeed(Box(root).answer("turn on the kitchen light"))
            assert roll_back(root, prove=False).digest == digest_of(first)
            assert install(first, root).was_current
            assert install(third, root).digest == digest_of(third)
            assert collect_garbage(root).generations == (digest_of(second),)
            assert status(root, scrub_too=True).damages == ()
            is_whole(root, current=third, previous=first)
        assert sorted((path, path.lstat().st_mtime_ns) for path in store.rglob("*")) == before


class TestCopies:
    @pytest.mark.parametrize("options", [("-rL",), ("-r",), ("-a",)], ids=" ".join)
    def test_a_copy_is_a_store(
        self, store: Path, first: Path, second: Path, third: Path, tmp_path: Path, options: tuple[str, ...]
    ) -> None:
        copy = tmp_path / "copy"
        subprocess.run(["cp", *options, store, copy], check=True)
        assert open_bundle(copy).name == digest_of(second)
        assert open_bundle(copy / "current").name == digest_of(second)
        assert status(copy, scrub_too=True).damages == ()
        is_whole(copy, current=second, previous=first)
        assert roll_back(copy, prove=False).digest == digest_of(first)
        assert install(third, copy).sent_bytes == 5
        is_whole(copy, current=third, previous=first)

    @pytest.mark.parametrize("is_exchanged", [True, False], ids=["in one step", "where that cannot be"])
    def test_a_flash_makes_links_of_its_folders(
        self,
        store: Path,
        second: Path,
        third: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        is_exchanged: bool,
    ) -> None:
        copy = tmp_path / "copy"
        subprocess.run(["cp", "-rL", store, copy], check=True)
        if not is_exchanged:
            monkeypatch.setattr(durable, "_exchanged", lambda *_: False)
        install(third, copy)
        is_whole(copy, current=third, previous=second)

    def test_its_state_may_be_lost_too(self, store: Path, first: Path, second: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy"
        subprocess.run(["cp", "-rL", store, copy], check=True)
        (copy / "state.json").unlink()
        status(copy)
        is_whole(copy, current=second, previous=first)

    def test_a_folder_that_is_no_copy_is_not_removed(self, store: Path, third: Path) -> None:
        (store / "current").unlink()
        (store / "current").mkdir()
        (store / "current" / "letter").write_text("dear")
        for change in (lambda: install(third, store), lambda: roll_back(store, prove=False)):
            with pytest.raises(BadInputError, match="current: expected a link, found a folder"):
                change()
        assert (store / "current" / "letter").read_text() == "dear"

    def test_a_copy_that_is_damaged_is_told(self, store: Path, first: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy"
        subprocess.run(["cp", "-r", store, copy], check=True)
        flip_bit(copy / "gens" / digest_of(first) / BALLAST, 1)
        damages = status(copy, scrub_too=True).damages
        assert damages is not None
        assert [(each.digest, each.path) for each in damages] == [(digest_of(first), BALLAST)]
