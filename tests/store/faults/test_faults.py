"""Whatever happens to a box while it is flashed: its active bundle is whole, and the next flash completes.

Every test lets one machine of destruction work on real parts; `table.py` lets them work for longer.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.store.faults import (
    bad_disks,
    bad_probes,
    clocks,
    damaged_records,
    decay,
    environments,
    failing_calls,
    killed,
    lost_cache,
    lost_keys,
    mutants,
    power_cut,
    together,
)
from tests.store.faults.box import Phase
from tests.store.faults.bundles import Releases, build_releases
from tests.store.faults.disks import missing
from tests.store.faults.outcome import Outcome


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """Two good releases of the demo, for all tests of this package."""
    return build_releases(tmp_path_factory.mktemp("releases"))


def needs(*programs: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Skip a test where one of these is missing or forbidden."""
    reason = missing(*programs)
    return pytest.mark.skipif(reason is not None, reason=str(reason))


def holds(outcome: Outcome) -> bool:
    """Whether nothing was lost, and every store could be flashed again."""
    assert outcome.broken == ()
    return outcome.cases == outcome.finished == outcome.old + outcome.new


class TestPowerCut:
    @needs(*power_cut.PROGRAMS)
    @pytest.mark.slow
    def test_instants_of_a_flash(self, tmp_path: Path, releases: Releases) -> None:
        outcome = power_cut.power_cuts(tmp_path, releases, cuts=30)
        assert holds(outcome)
        assert {Phase.BEFORE, Phase.FETCH, Phase.PROBE, Phase.COMMITTED} <= outcome.phases.keys()

    @needs(*lost_cache.PROGRAMS)
    @pytest.mark.slow
    def test_with_a_part_of_the_drives_cache(self, tmp_path: Path, releases: Releases) -> None:
        outcome = lost_cache.lost_caches(tmp_path, releases, cuts=22)
        assert holds(outcome)
        assert {Phase.FETCH, Phase.PROBE, Phase.COMMITTED} <= outcome.phases.keys()

    @needs(*power_cut.PROGRAMS)
    @pytest.mark.slow
    def test_instants_of_a_rollback(self, tmp_path: Path, releases: Releases) -> None:
        assert holds(power_cut.power_cuts_of_rollbacks(tmp_path, releases, cuts=8))

    @needs(*lost_cache.PROGRAMS)
    @pytest.mark.slow
    def test_of_a_rollback_with_a_part_of_the_drives_cache(self, tmp_path: Path, releases: Releases) -> None:
        assert holds(lost_cache.lost_caches_of_rollbacks(tmp_path, releases, cuts=5))


class TestKilled:
    @needs(*killed.PROGRAMS)
    @pytest.mark.slow
    def test_at_calls_of_a_flash(self, tmp_path: Path, releases: Releases) -> None:
        outcome = killed.killed_flashes(tmp_path, releases, every=4)
        assert holds(outcome)
        assert outcome.phases.keys() == set(Phase) - {Phase.BEFORE}

    @needs(*killed.PROGRAMS)
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("kill", "every"),
        [
            (killed.killed_rollbacks, 4),
            (killed.killed_collections, 4),
            (killed.killed_first_flashes, 10),
            (killed.killed_repairs, 10),
        ],
        ids=["rollback", "gc", "the first flash", "a flash that mends"],
    )
    def test_at_calls_of_the_others(
        self, tmp_path: Path, releases: Releases, kill: Callable[[Path, Releases, int], Outcome], every: int
    ) -> None:
        assert holds(kill(tmp_path, releases, every))


class TestWhileAnEnvironmentIsMade:
    """The active one answers, and none that has a name is half."""

    @needs(*environments.PROGRAMS)
    @pytest.mark.slow
    def test_the_power_is_cut_and_a_part_of_the_drives_cache_lost(
        self, tmp_path: Path, releases: Releases
    ) -> None:
        assert holds(environments.lost_caches(tmp_path, releases, cuts=4))

    @needs(*environments.PROGRAMS)
    @pytest.mark.slow
    def test_it_is_killed(self, tmp_path: Path, releases: Releases) -> None:
        assert holds(environments.killed_flashes(tmp_path, releases, every=35))


class TestDisk:
    @needs(*failing_calls.PROGRAMS)
    @pytest.mark.slow
    @pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
    def test_a_call_that_fails(self, tmp_path: Path, releases: Releases, error: str) -> None:
        assert holds(failing_calls.failed_flashes(tmp_path, releases, error, every=60))

    @needs(*failing_calls.PROGRAMS)
    @pytest.mark.slow
    @pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
    def test_a_call_of_a_rollback_that_fails(self, tmp_path: Path, releases: Releases, error: str) -> None:
        assert holds(failing_calls.failed_rollbacks(tmp_path, releases, error, every=40))

    @needs(*bad_disks.PROGRAMS)
    @pytest.mark.slow
    def test_filled_by_another_program(self, tmp_path: Path, releases: Releases) -> None:
        assert holds(bad_disks.full_disks(tmp_path, releases, cases=6))

    @needs(*bad_disks.PROGRAMS)
    def test_writing_back_fails(self, tmp_path: Path, releases: Releases) -> None:
        outcome = bad_disks.failing_disks(tmp_path, releases, cases=3)
        assert holds(outcome)
        assert outcome.old

    @needs(*bad_disks.PROGRAMS)
    def test_read_only(self, tmp_path: Path, releases: Releases) -> None:
        assert holds(bad_disks.read_only_disks(tmp_path, releases))


class TestAtRest:
    def test_scrub_finds_a_flipped_bit_and_only_its_chunk_is_sent_again(
        self, tmp_path: Path, releases: Releases
    ) -> None:
        assert holds(decay.flipped_bits(tmp_path, releases, cases=6))

    def test_scrub_finds_files_of_another_size(self, tmp_path: Path, releases: Releases) -> None:
        assert holds(decay.cut_files(tmp_path, releases))

    @needs(*damaged_records.PROGRAMS)
    @pytest.mark.slow
    def test_unfinished_transfers_and_their_journal(self, tmp_path: Path, releases: Releases) -> None:
        assert holds(damaged_records.damaged_transfers(tmp_path, releases))

    def test_state_and_links(self, tmp_path: Path, releases: Releases) -> None:
        assert holds(damaged_records.damaged_states(tmp_path, releases))


class TestKeys:
    @pytest.mark.slow
    def test_lost_at_points_of_a_command(self, tmp_path: Path, releases: Releases) -> None:
        assert holds(lost_keys.lost_keys(tmp_path, releases, every=40, only=lost_keys.ROLL_BACK_TO_REMOVED))

    @needs(*lost_cache.PROGRAMS)
    @pytest.mark.slow
    def test_a_new_key_with_a_part_of_the_drives_cache(self, tmp_path: Path, releases: Releases) -> None:
        assert holds(lost_keys.lost_caches_of_new_keys(tmp_path, releases, cuts=4))

    @needs(*lost_keys.PROGRAMS)
    @pytest.mark.slow
    def test_a_change_that_is_cut_short(self, tmp_path: Path, releases: Releases) -> None:
        assert holds(lost_keys.killed_changes_of_keys(tmp_path, releases, every=6))


@needs(*together.PROGRAMS)
@pytest.mark.slow
def test_two_commands_at_once(tmp_path: Path, releases: Releases) -> None:
    assert holds(together.two_at_once(tmp_path, releases, times=1))


@needs(*together.PROGRAMS)
@pytest.mark.slow
def test_two_first_flashes_at_once(tmp_path: Path, releases: Releases) -> None:
    assert holds(together.first_flashes_at_once(tmp_path, releases, times=2))


class TestClockAndBoot:
    @needs(*clocks.PROGRAMS)
    def test_other_years(self, tmp_path: Path, releases: Releases) -> None:
        assert holds(clocks.wrong_clocks(tmp_path, releases))

    @needs(*clocks.PROGRAMS)
    def test_what_another_boot_has_left(self, tmp_path: Path, releases: Releases) -> None:
        assert holds(clocks.other_boots(tmp_path, releases))


def test_bad_bundles_with_honest_manifests(tmp_path: Path, releases: Releases) -> None:
    assert holds(bad_probes.bad_bundles(tmp_path, releases))


@needs(*mutants.PROGRAMS)
@pytest.mark.slow
@pytest.mark.parametrize("name", mutants.MUTANTS)
def test_a_machine_of_destruction_finds_the_mistake_of_a_mutant(
    name: str, tmp_path: Path, releases: Releases
) -> None:
    """Else that all of the above hold would say nothing."""
    assert mutants.MUTANTS[name].machine(tmp_path, releases).broken != ()
