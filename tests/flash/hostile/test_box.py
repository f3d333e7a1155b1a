"""A hostile box: nobody waits for it for ever, and it is not believed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncssh
import pytest

from tests.flash.hostile.box import HostileBox, hostile_box
from tests.flash.hostile.client import Ended, run_client

SECONDS = 45
"""A bound for a busy machine; the clock of the client itself ends at 20."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def box(home: Path) -> Iterator[HostileBox]:
    with hostile_box(home) as found:
        yield found


def flashed(bundle: Path, box: HostileBox, home: Path, *, place: str, way: str) -> Ended:
    """Flash it."""
    box.place, box.way = place, way
    address = f"ssh://127.0.0.1:{box.port}/store"
    return run_client("flash", bundle, address, environment={"HOME": str(home)}, folder=home / "said")


def checked(bundle: Path, box: HostileBox, home: Path, *, place: str, way: str) -> Ended:
    """Ask what flashing it would do."""
    box.place, box.way = place, way
    words = ("flash", bundle, f"ssh://127.0.0.1:{box.port}/store", "--check")
    return run_client(*words, environment={"HOME": str(home)}, folder=home / "said")


def asked(box: HostileBox, home: Path, *, place: str, way: str) -> Ended:
    """Ask for its status."""
    box.place, box.way = place, way
    address = f"ssh://127.0.0.1:{box.port}/store"
    return run_client("status", address, environment={"HOME": str(home)}, folder=home / "said")


def test_one_that_behaves_is_flashed(demo_bundle: Path, box: HostileBox, home: Path) -> None:
    """Else these tests would test nothing."""
    ended = flashed(demo_bundle, box, home, place="", way="")
    assert ended.code == 0 and box.chunks, ended.errors


class TestWhatItSaysOfACheck:
    def test_is_said_when_it_can_be(self, demo_bundle: Path, box: HostileBox, home: Path) -> None:
        ended = checked(demo_bundle, box, home, place="", way="")
        assert ended.code == 0 and b"nothing was written" in ended.output, ended.errors
        assert box.chunks == 0

    @pytest.mark.parametrize(
        "way",
        [
            *("nothing", "another-digest", "no-digest", "another-name", "another-release", "too-many-bytes"),
            *("a-signer", "no-active", "unchanged", "another-key"),
        ],
    )
    def test_is_not_believed_when_it_cannot(
        self, demo_bundle: Path, box: HostileBox, home: Path, way: str
    ) -> None:
        ended = checked(demo_bundle, box, home, place="lies", way=way)
        assert ended.code == 6 and not ended.is_bug, ended.errors
        assert ended.output == b"" and ended.steering == 0

    @pytest.mark.parametrize("way", ["wants-a-path", "wants-all-again"])
    def test_is_refused_when_it_lacks_what_no_bundle_has(
        self, demo_bundle: Path, box: HostileBox, home: Path, way: str
    ) -> None:
        ended = checked(demo_bundle, box, home, place="wants", way=way)
        assert ended.code == 6 and not ended.is_bug, ended.errors


class TestItsResultIsHeldAgainstWhatWasSent:
    @pytest.mark.parametrize(
        ("way", "found"),
        [
            ("another-digest", "expected the bundle"),
            ("another-name", "expected the name"),
            ("another-release", "expected release"),
            ("too-many-bytes", "expected bytes in all"),
            ("a-signer", "expected no signer"),
            ("unproven", "expected a probe"),
            ("unchanged", "expected a change"),
            ("another-answer", "expected a probe that begins"),
            ("negative-bytes", "expected a frame of edgephi's"),
            ("another-key", "unknown key 'official'"),
        ],
    )
    def test_and_a_lie_in_it_is_not_believed(
        self, demo_bundle: Path, box: HostileBox, home: Path, way: str, found: str
    ) -> None:
        ended = flashed(demo_bundle, box, home, place="lies", way=way)
        assert ended.code == 6 and found in ended.message, ended.errors
        assert ended.output == b"" and ended.steering == 0

    def test_and_one_before_all_was_sent_is_none(
        self, demo_bundle: Path, box: HostileBox, home: Path
    ) -> None:
        ended = flashed(demo_bundle, box, home, place="early", way="")
        assert ended.code == 6 and "a result after all chunks" in ended.message, ended.errors

    def test_and_the_hint_names_the_box_that_lied(
        self, demo_bundle: Path, box: HostileBox, home: Path
    ) -> None:
        ended = flashed(demo_bundle, box, home, place="lies", way="another-name")
        assert f"status ssh://127.0.0.1:{box.port}/store`".encode() in ended.errors, ended.errors

    @pytest.mark.parametrize("way", ["wants-all-again", "wants-nothing-said"])
    def test_and_it_gets_each_chunk_of_the_bundle_once(
        self, demo_bundle: Path, box: HostileBox, home: Path, way: str
    ) -> None:
        ended = flashed(demo_bundle, box, home, place="wants", way=way)
        assert ended.code == 6 and not ended.is_bug, ended.errors
        assert box.chunks == 0


class TestAMalformedReply:
    @pytest.mark.parametrize(
        "way",
        [
            *("step-without-title", "step-of-any-size", "done-negative"),
            *("another-kind", "error-of-no-text", "received-early", "huge-frame"),
        ],
    )
    def test_is_no_fault_of_ours(self, demo_bundle: Path, box: HostileBox, home: Path, way: str) -> None:
        ended = flashed(demo_bundle, box, home, place="wanted", way=way)
        assert ended.code == 6 and "expected " in ended.message and ", found" in ended.message, ended.errors
        assert not ended.is_bug

    @pytest.mark.parametrize("way", ["step-without-title", "another-kind"])
    def test_to_a_question_neither(self, box: HostileBox, home: Path, way: str) -> None:
        ended = asked(box, home, place="result", way=way)
        assert (ended.code == 6 and ": expected " in ended.message) or "is missing" in ended.message, (
            ended.errors
        )
        assert not ended.is_bug

    def test_with_a_result_of_something_else(self, box: HostileBox, home: Path) -> None:
        ended = asked(box, home, place="", way="nothing")
        assert ended.code == 6 and not ended.is_bug, ended.errors


class TestWhatItSaysIsBounded:
    @pytest.mark.parametrize("way", ["endless-steps", "endless-done", "endless-alive"])
    def test_however_much_it_says(self, demo_bundle: Path, box: HostileBox, home: Path, way: str) -> None:
        ended = flashed(demo_bundle, box, home, place="wanted", way=way)
        assert ended.code == 6, ended.errors
        assert ended.seconds < SECONDS and ended.peak_bytes < 200 << 20
        assert len(ended.errors) < 100_000 and ended.steering == 0

    def test_before_its_agent_is_there(self, demo_bundle: Path, box: HostileBox, home: Path) -> None:
        ended = flashed(demo_bundle, box, home, place="start", way="endless-zeros")
        assert ended.code == 6 and ended.seconds < SECONDS, ended.errors

    @pytest.mark.parametrize("way", ["error-steering", "error-long"])
    def test_and_steers_nothing(self, demo_bundle: Path, box: HostileBox, home: Path, way: str) -> None:
        ended = flashed(demo_bundle, box, home, place="wanted", way=way)
        assert ended.code in (4, 6) and ended.steering == 0, ended.errors
        assert len(ended.errors) < 10_000


@pytest.mark.slow
class TestOneThatSaysNothingMore:
    def test_is_given_up_and_named(self, demo_bundle: Path, tmp_path: Path) -> None:
        """Both at once: each takes its twenty seconds."""
        ways = {("chunks", "silent"): "a word on chunks", ("result", "only-alive"): "its result"}

        def end(way: tuple[str, str]) -> Ended:
            home = tmp_path / way[0]
            with hostile_box(home) as box:
                return flashed(demo_bundle, box, home, place=way[0], way=way[1])

        with ThreadPoolExecutor(len(ways)) as pool:
            all_ended = list(pool.map(end, ways))
        for awaited, ended in zip(ways.values(), all_ended, strict=True):
            assert ended.code == 6 and ended.seconds < SECONDS, ended.errors
            assert f"expected {awaited}" in ended.message and "found nothing for 20 s" in ended.message


class TestARevokedKey:
    def test_is_called_revoked(self, demo_bundle: Path, home: Path) -> None:
        with hostile_box(home, known="@revoked ") as box:
            ended = flashed(demo_bundle, box, home, place="", way="")
        assert ended.code == 6 and "marks as @revoked" in ended.message, ended.errors

    def test_is_refused_though_another_line_knows_it(self, demo_bundle: Path, home: Path) -> None:
        key = asyncssh.generate_private_key("ssh-ed25519")
        with hostile_box(home, key=key) as box:
            known = home / ".ssh" / "known_hosts"
            known.write_text(f"{known.read_text()}@revoked * {key.export_public_key().decode()}")
            ended = flashed(demo_bundle, box, home, place="", way="")
        assert ended.code == 6 and "marks as @revoked" in ended.message, ended.errors
        assert box.chunks == 0
