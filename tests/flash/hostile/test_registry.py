"""A hostile registry: it learns no secret that is not its own, and nobody waits for it for ever."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgephi.flash.oci.credentials import PASSWORD_VARIABLE, USER_VARIABLE
from tests.flash.hostile.client import Ended, run_client
from tests.flash.hostile.registry import HostileRegistry, hostile_registry

SECONDS = 45
"""A bound for a busy machine; the clock of the client itself ends at 22."""


@pytest.fixture
def registry(demo_bundle: Path) -> Iterator[HostileRegistry]:
    with hostile_registry(demo_bundle) as server:
        yield server


def pulled(registry: HostileRegistry, folder: Path, *, place: str, way: str, times: int = 1 << 30) -> Ended:
    """Pull from it, with credentials that are its own."""
    registry.place, registry.way, registry.times = place, way, times
    environment = {
        USER_VARIABLE: "alice",
        PASSWORD_VARIABLE: "s3cret",
        "HOME": str(folder),
        "DOCKER_CONFIG": str(folder),
    }
    reference = f"oci://{registry.host}/a/b:1"
    return run_client(
        "pull", reference, "-o", folder / "out", environment=environment, folder=folder / "said"
    )


def test_one_that_behaves_is_pulled_from(registry: HostileRegistry, tmp_path: Path) -> None:
    ended = pulled(registry, tmp_path, place="", way="")
    assert ended.code == 0, ended.errors


class TestCredentials:
    @pytest.mark.parametrize("way", ["asks-basic", "asks-elsewhere"])
    def test_a_server_that_it_redirects_to_gets_none(
        self, registry: HostileRegistry, tmp_path: Path, way: str
    ) -> None:
        ended = pulled(registry, tmp_path, place="elsewhere", way=way)
        assert ended.code == 4 and "HTTP status 401" in ended.message, ended.errors
        assert [each for each in registry.asked if each.host != "127.0.0.1"]
        assert registry.secrets_elsewhere() == []
        # Not even the registry itself: it has not asked.
        assert [each for each in registry.asked if each.authorization] == []

    def test_a_token_server_on_another_machine_that_all_can_read_gets_none(
        self, registry: HostileRegistry, tmp_path: Path
    ) -> None:
        ended = pulled(registry, tmp_path, place="manifest", way="asks-elsewhere")
        assert ended.code == 4 and "https address of its token server" in ended.message, ended.errors
        assert registry.secrets_elsewhere() == []

    def test_a_token_server_that_sends_on_gives_nothing_away(
        self, registry: HostileRegistry, tmp_path: Path
    ) -> None:
        ended = pulled(registry, tmp_path, place="token", way="sent-elsewhere")
        assert ended.code == 6 and "sends our credentials" in ended.message, ended.errors
        assert [each for each in registry.asked if each.host != "127.0.0.1"] == []

    def test_an_upload_on_another_server_gets_none(
        self, registry: HostileRegistry, demo_bundle: Path, tmp_path: Path
    ) -> None:
        environment = {USER_VARIABLE: "alice", PASSWORD_VARIABLE: "s3cret", "HOME": str(tmp_path)}
        registry.place, registry.way, registry.wants_a_password = "begin", "upload-elsewhere", True
        ended = run_client(
            "push", demo_bundle, f"{registry.host}/a/b:1", environment=environment, folder=tmp_path
        )
        assert ended.code in (4, 6), ended.errors
        assert [each for each in registry.asked if each.host != "127.0.0.1"]
        assert [each for each in registry.asked if each.authorization]
        assert registry.secrets_elsewhere() == []

    @pytest.mark.parametrize("way", ["page", "empty", "not-here"])
    def test_a_token_server_without_a_token_is_no_answer_of_the_registry(
        self, registry: HostileRegistry, tmp_path: Path, way: str
    ) -> None:
        ended = pulled(registry, tmp_path, place="token", way=way)
        assert ended.code in (4, 6) and "expected a manifest" not in ended.message, ended.errors

    @pytest.mark.parametrize("way", ["to-a-file", "to-ftp", "to-plain", "in-a-circle"])
    def test_a_redirect_that_is_none_is_refused(
        self, registry: HostileRegistry, tmp_path: Path, way: str
    ) -> None:
        ended = pulled(registry, tmp_path, place="big", way=way)
        assert ended.code == 6 and not ended.is_bug, ended.errors
        assert b"hint: " in ended.errors


class TestAWaitEnds:
    @pytest.mark.parametrize(
        ("place", "way"),
        [
            ("big", "drip-body"),
        ],
    )
    @pytest.mark.slow
    def test_by_itself_where_a_little_comes_now_and_then(
        self, registry: HostileRegistry, tmp_path: Path, place: str, way: str
    ) -> None:
        ended = pulled(registry, tmp_path, place=place, way=way)
        assert ended.code == 6, ended.errors
        assert ended.seconds < SECONDS

    @pytest.mark.parametrize(
        "way", ["endless-error", "compressed-error", "deep-error", "odd-error", "steering"]
    )
    def test_however_long_an_error_is(self, registry: HostileRegistry, tmp_path: Path, way: str) -> None:
        ended = pulled(registry, tmp_path, place="manifest", way=way)
        assert ended.code == 4 and "HTTP status 403" in ended.message, ended.errors
        assert ended.peak_bytes < 200 << 20
        assert ended.steering == 0 and ended.seconds < SECONDS

    def test_however_long_the_answer_to_an_upload_is(
        self, registry: HostileRegistry, demo_bundle: Path, tmp_path: Path
    ) -> None:
        registry.place, registry.way = "end", "endless-body"
        environment = {"HOME": str(tmp_path)}
        words = ("push", demo_bundle, f"{registry.host}/a/b:1")
        ended = run_client(*words, environment=environment, folder=tmp_path)
        assert ended.code == 6, ended.errors
        assert ended.peak_bytes < 200 << 20 and ended.seconds < SECONDS

    @pytest.mark.parametrize("place", ["manifest", "own", "token"])
    def test_however_long_an_answer_is(self, registry: HostileRegistry, tmp_path: Path, place: str) -> None:
        ended = pulled(registry, tmp_path, place=place, way="endless-body")
        assert ended.code in (4, 6), ended.errors
        assert ended.peak_bytes < 200 << 20 and ended.seconds < SECONDS


class TestABusyRegistry:
    @pytest.mark.parametrize(
        ("place", "way"),
        [("manifest", "busy"), ("manifest", "close"), ("manifest", "busy-soon"), ("big", "busy-soon")],
    )
    def test_is_asked_again(self, registry: HostileRegistry, tmp_path: Path, place: str, way: str) -> None:
        ended = pulled(registry, tmp_path, place=place, way=way, times=2)
        assert ended.code == 0, ended.errors
        if way == "busy-soon":  # two times two seconds, as it asked for
            assert ended.seconds > 4

    @pytest.mark.parametrize("way", ["busy-long", "busy-date"])
    def test_that_asks_for_more_patience_than_there_is(
        self, registry: HostileRegistry, tmp_path: Path, way: str
    ) -> None:
        ended = pulled(registry, tmp_path, place="manifest", way=way)
        assert ended.code == 6 and "it asks to wait 86400 s" in ended.message, ended.errors
        assert len(registry.asked) == 1

    def test_is_not_asked_again_what_it_refuses(self, registry: HostileRegistry, tmp_path: Path) -> None:
        ended = pulled(registry, tmp_path, place="manifest", way="teapot")
        assert ended.code == 6 and "418" in ended.message, ended.errors
        assert len(registry.asked) == 1


def test_the_document_of_the_artifact_is_what_the_registry_serves(registry: HostileRegistry) -> None:
    """Else these tests would test nothing."""
    assert json.loads(registry.manifest)["layers"] and registry.big != registry.own
