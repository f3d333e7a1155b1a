"""What the next start makes of a store that something happened to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgephi.errors import BadBundleError, BadInputError
from edgephi.store.activation import mark_trial, swap_current
from edgephi.store.disk.layout import Layout
from edgephi.store.opening import followed_store, open_bundle
from edgephi.store.recover import recover
from edgephi.store.state import State, change_state, read_state, write_state
from edgephi.store.status import status
from tests.store.bundles import digest_of, flip_bit
from tests.store.conftest import install


@pytest.fixture
def store(first: Path, second: Path, tmp_path: Path) -> Path:
    """A store that runs the second release, and ran the first."""
    root = tmp_path / "store"
    install(first, root)
    install(second, root)
    return root


@pytest.fixture
def on_trial(store: Path, first: Path, second: Path) -> Path:
    """The same, cut off while it was about to go from the second release to the first."""
    mark_trial(Layout(store), digest_of(first))
    swap_current(Layout(store), digest_of(first))
    return store


def linked(root: Path, name: str = "current") -> str:
    return (root / name).resolve().name


class TestATrialThatWasCutShort:
    def test_ends_with_what_was_committed(self, on_trial: Path, first: Path, second: Path) -> None:
        assert linked(on_trial) == digest_of(first)
        assert recover(on_trial).ended_trial == digest_of(first)
        assert linked(on_trial) == digest_of(second)
        assert read_state(Layout(on_trial)).trial is None
        assert recover(on_trial).ended_trial is None

    def test_is_undone_by_whoever_opens_the_bundle(self, on_trial: Path, second: Path) -> None:
        for path in (on_trial, on_trial / "current"):
            assert open_bundle(path).name == digest_of(second)
        assert linked(on_trial) == digest_of(second)

    def test_is_not_followed_where_nothing_can_be_written(
        self, on_trial: Path, second: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A service may not write to the store that it serves from."""
        opened = os.open

        def refusing(path: str | Path, flags: int, mode: int = 0o777) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR):
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, flags, mode)

        monkeypatch.setattr(os, "open", refusing)
        assert open_bundle(on_trial / "current").name == digest_of(second)

    def test_before_anything_was_committed_leaves_no_active_bundle(self, first: Path, tmp_path: Path) -> None:
        install(first, tmp_path)
        write_state(Layout(tmp_path), State())
        mark_trial(Layout(tmp_path), digest_of(first))
        recover(tmp_path)
        assert not os.path.lexists(tmp_path / "current")
        with pytest.raises(BadBundleError, match="active bundle"):
            open_bundle(tmp_path)


class TestDamagedRecords:
    @pytest.mark.parametrize(
        "damage",
        [
            Path.unlink,
            lambda path: flip_bit(path, 60),
            lambda path: os.truncate(path, 40),
            lambda p: p.write_text("[]"),
        ],
        ids=["gone", "bit", "cut", "other JSON"],
    )
    def test_a_lost_state_is_told_by_the_links(
        self, store: Path, first: Path, second: Path, damage: Callable[[Path], object]
    ) -> None:
        damage(store / "state.json")
        assert open_bundle(store).name == digest_of(second)
        state = read_state(Layout(store))
        assert (state.current, state.previous) == (digest_of(second), digest_of(first))
        assert state.sequence_floor == {"demo-cpu": 2}

    @pytest.mark.parametrize("link", ["current", "previous"])
    def test_a_lost_link_is_told_by_the_state(self, store: Path, link: str) -> None:
        before = linked(store, link)
        (store / link).unlink()
        (store / link).symlink_to("gens/" + "0" * 64)
        recover(store)
        assert linked(store, link) == before
        (store / link).unlink()
        recover(store)
        assert linked(store, link) == before

    def test_without_the_current_generation_the_previous_one_runs(self, store: Path, first: Path) -> None:
        shutil.rmtree((store / "current").resolve())
        assert open_bundle(store).name == digest_of(first)
        assert linked(store) == digest_of(first)
        assert status(store).generations[0].role == "current"

    def test_a_state_of_a_newer_edgephi_is_not_guessed_at(self, store: Path) -> None:
        change_state(Layout(store), schema="edgephi.store/9")
        before = (store / "state.json").read_bytes()
        for look in (recover, open_bundle, status):
            with pytest.raises(BadInputError, match="schema"):
                look(store)
        assert (store / "state.json").read_bytes() == before

    def test_what_a_dead_process_was_building_is_removed(self, store: Path) -> None:
        for name in (".tmp", ".removed-" + "0" * 64):
            (store / "gens" / name / "model").mkdir(parents=True)
        recover(store)
        assert not [path for path in (store / "gens").iterdir() if path.name.startswith(".")]


class TestOpening:
    def test_a_generation_by_its_name_stays_that_one(self, store: Path, first: Path) -> None:
        path = store / "gens" / digest_of(first)
        assert open_bundle(path) == path.resolve()
        assert open_bundle(store / "previous") == path.resolve()
        assert followed_store(path) is None
        assert followed_store(store / "current") == followed_store(store) == store

    def test_a_relative_path_works_too(self, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(store)
        assert open_bundle(Path("current")) == (store / "current").resolve()
        assert open_bundle(Path()) == (store / "current").resolve()

    def test_links_from_elsewhere_lead_to_the_committed_bundle(
        self, on_trial: Path, second: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "model").symlink_to("way")
        (tmp_path / "way").symlink_to(on_trial / "current")
        assert followed_store(tmp_path / "model") == on_trial
        assert open_bundle(tmp_path / "model").name == digest_of(second)

    def test_links_that_lead_nowhere_are_left_to_whoever_opens_them(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).symlink_to("b" if name == "a" else "a")
            assert open_bundle(tmp_path / name) == tmp_path / name

    def test_a_bundle_in_no_store_is_left_alone(self, first: Path) -> None:
        assert open_bundle(first) == first
