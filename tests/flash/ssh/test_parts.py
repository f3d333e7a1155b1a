"""What flashing over ssh is made of, each by itself."""

import asyncio
import hashlib
import io
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgephi.errors import BadBundleError, TransportError, UsageError
from edgephi.flash.destination import Box, read_box
from edgephi.flash.ssh.agent_archive import agent_archive, start_command
from edgephi.flash.ssh.incoming import Incoming, SilentBoxError
from edgephi.flash.ssh.rate_limit import RateLimit
from edgephi.flash.ssh.transfer import wanted_files
from edgephi.store.agent.frames import (
    CHUNK_HEAD,
    HEADER,
    MAGIC,
    Kind,
    frame,
    frame_of,
    read_header,
    read_value,
)
from edgephi.store.agent.link import Link
from edgephi.store.environments.wheels import SealedWheel, base_interpreter, make_environment, unpack_wheels
from tests.bundle.tiny import tiny_manifest


class TestDestination:
    @pytest.mark.parametrize(
        ("text", "box"),
        [
            ("ssh://box/data", Box("box", "/data")),
            ("ssh://me@Box.local:2222/var/lib/edgephi/", Box("Box.local", "/var/lib/edgephi", "me", 2222)),
            ("ssh://me@[fe80::1]:22/a%20b", Box("fe80::1", "/a b", "me", 22)),
            ("ssh://box/~/models", Box("box", "~/models")),
        ],
    )
    def test_is_read(self, text: str, box: Box) -> None:
        assert read_box(text) == box
        assert read_box(box.url) == box

    @pytest.mark.parametrize(
        "text",
        [
            *("ssh://", "ssh:///data", "ssh://box", "ssh://box/", "ssh://box/~/", "ssh://box:port/data"),
            *("ssh://me:secret@box/data", "ssh://-oProxyCommand=x/data", "ssh://box/a?b", "ssh://box/a%00b"),
            *("ssh://bo x/data", "ssh://box:99999/data"),
        ],
    )
    def test_is_refused_when_it_is_none(self, text: str) -> None:
        with pytest.raises(UsageError) as refused:
            read_box(text)
        assert "secret" not in refused.value.message


class TestFrames:
    def test_one_that_is_too_long_for_its_kind_is_not_read(self) -> None:
        with pytest.raises(TransportError):
            read_header(HEADER.pack(Kind.CHUNK, (4 << 20) + CHUNK_HEAD.size + 1))
        with pytest.raises(TransportError):
            read_header(HEADER.pack(Kind.REQUEST, 1 << 30))
        with pytest.raises(TransportError):
            read_header(HEADER.pack(99, 0))

    @pytest.mark.parametrize("payload", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
    def test_one_without_an_object_is_refused(self, payload: bytes) -> None:
        with pytest.raises(TransportError):
            read_value(payload)

    def test_a_box_gets_only_chunks_of_the_bundle(self) -> None:
        manifest = tiny_manifest()
        entry = manifest.files[-1]

        def wanted(sha256: str, chunks: list[list[int]]) -> list[object]:
            files = [{"sha256": sha256, "chunks": chunks}]
            value = {"total_bytes": 7, "have_bytes": 0, "files": files}
            return list(wanted_files(Box("box", "/data"), manifest, 7, value))

        assert len(wanted(entry.sha256, [[0, entry.size]])) == 1
        for sha256, chunks in (
            ("0" * 64, [[0, entry.size]]),
            (entry.sha256, [[1, entry.size]]),
            (entry.sha256, [[0, entry.size + 1]]),
            (entry.sha256, [[-1, 1]]),
        ):
            with pytest.raises(TransportError):
                wanted(sha256, chunks)


class TestAgent:
    @pytest.fixture
    def talk(self, tmp_path: Path):  # type: ignore[no-untyped-def]
        """Start the agent as a box's shell would, and return all that it says to some frames."""

        def call(*frames: bytes) -> tuple[int, bytes]:
            done = subprocess.run(
                ["/bin/sh", "-c", start_command()],
                input=agent_archive() + b"".join(frames),
                capture_output=True,
                cwd=tmp_path,
                env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)},
                timeout=60,
                check=False,
            )
            assert b"Traceback" not in done.stderr
            return done.returncode, done.stdout

        return call

    def test_says_what_it_is_first(self, talk) -> None:  # type: ignore[no-untyped-def]
        _, said = talk()
        assert said.startswith(MAGIC)
        kind, length = read_header(said[len(MAGIC) :][: HEADER.size])
        assert kind == Kind.READY and length

    @pytest.mark.parametrize(
        "frames",
        [
            [frame(Kind.REQUEST, b"nonsense")],
            [
                frame_of(
                    Kind.REQUEST, {"operation": "status", "root": "~nobody-of-that-name/x", "scrub": False}
                )
            ],
            [frame_of(Kind.REQUEST, {"operation": "erase", "root": "/"})],
            [frame_of(Kind.REQUEST, {})],
            [frame(Kind.CHUNK, bytes(60))],
            [HEADER.pack(Kind.MANIFEST, 1 << 31)],
            [b"\xff" * 100],
        ],
    )
    def test_answers_nonsense_with_one_error(self, talk, frames: list[bytes], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        code, said = talk(*frames)
        assert code != 0
        ready = len(MAGIC) + HEADER.size + read_header(said[len(MAGIC) :][: HEADER.size])[1]
        kind, length = read_header(said[ready:][: HEADER.size])
        assert kind == Kind.ERROR
        value = read_value(said[ready + HEADER.size :])
        assert length and value["message"] and value["hint"]
        assert list(tmp_path.iterdir()) == []

    def test_a_cancel_ends_it_without_a_word(self, talk) -> None:  # type: ignore[no-untyped-def]
        code, said = talk(frame(Kind.CANCEL))
        assert code == 130
        assert len(said) < len(MAGIC) + 200

    def test_the_archive_is_small_and_the_same_each_time(self) -> None:
        data = agent_archive()
        assert len(data) < 400 << 10
        names = zipfile.ZipFile(io.BytesIO(data[4:])).namelist()
        assert "edgephi/store/install.py" in names
        assert not [
            name for name in names if name.startswith(("edgephi/cli", "edgephi/flash", "edgephi/build"))
        ]
        agent_archive.cache_clear()
        assert agent_archive() == data


class TestASignOfLife:
    def test_is_given_by_an_agent_whatever_it_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Else a probe of minutes could not be told from a box that hangs."""
        monkeypatch.setattr("edgephi.store.agent.link.PING_SECONDS", 0.05)
        (near, incoming), (outgoing, far) = os.pipe(), os.pipe()
        link = Link(near, far)
        with link.alive():
            said = b"".join(os.read(outgoing, HEADER.size) for _ in range(3))
        assert said == 3 * frame(Kind.PING)
        for descriptor in (near, incoming, outgoing, far):
            os.close(descriptor)

    def test_counts_no_longer_than_any_work_takes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("edgephi.flash.ssh.incoming.LONGEST_WORK_SECONDS", 0.3)

        class Alive:
            async def read(self, n: int = -1) -> bytes:  # noqa: ARG002 - the signature of a stream
                await asyncio.sleep(0.05)
                return frame(Kind.PING)

        incoming = Incoming(Box("box", "/data"), Alive())
        with pytest.raises(SilentBoxError, match="only that the agent is alive"):
            asyncio.run(incoming.frame())


class TestRateLimit:
    def test_several_senders_share_it(self) -> None:
        limit = RateLimit(100_000)

        async def send() -> None:
            for _ in range(5):
                await limit.wait(5_000)

        async def both() -> None:
            await asyncio.gather(send(), send())

        begun = time.monotonic()
        asyncio.run(both())
        assert 0.4 < time.monotonic() - begun < 1.5

    def test_pieces_are_small_where_the_rate_is_low(self) -> None:
        assert RateLimit(20_000).piece_bytes == 1_000
        assert RateLimit(1).piece_bytes < 1_000 < RateLimit(None).piece_bytes


def unpack_wheel(wheel: Path, environment: Path, version: str, progress: Callable[[int], None]) -> None:
    """Unpack one wheel, which is the one that was sealed, where there is room enough."""
    sealed = SealedWheel(wheel, hashlib.sha256(wheel.read_bytes()).hexdigest())
    unpack_wheels([sealed], environment, version, check_room=lambda _size: None, progress=progress)


class TestWheels:
    def test_an_environment_runs_what_was_unpacked(self, tmp_path: Path) -> None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        folder = tmp_path / "env"
        make_environment(folder, base_interpreter(), version)
        wheel = tmp_path / "mine-1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("mine/__init__.py", "WORD = 'here'")
            archive.writestr("mine-1.data/purelib/also.py", "WORD = 'too'")
            archive.writestr("mine-1.data/data/share/mine.txt", "data")
            archive.writestr("mine-1.data/scripts/mine", "#!python")
        counted: list[int] = []
        unpack_wheel(wheel, folder, version, counted.append)
        said = subprocess.run(
            [folder / "bin" / "python", "-P", "-c", "import mine, also; print(mine.WORD, also.WORD)"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout == "here too\n"
        assert (folder / "share" / "mine.txt").read_text() == "data"
        assert not (folder / "bin" / "mine").exists()
        assert sum(counted) == sum(map(len, ("WORD = 'here'", "WORD = 'too'", "data")))

    @pytest.mark.parametrize(
        "name",
        [
            "../out.py",
            "a/../../../../../out.py",
            "/tmp/out.py",
            "x.data/data/../../out",
            "x.data/purelib//out",
        ],
    )
    def test_nothing_is_written_outside_the_environment(self, tmp_path: Path, name: str) -> None:
        folder = tmp_path / "env"
        make_environment(folder, base_interpreter(), "3.11")
        wheel = tmp_path / "bad-1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(name, "out")
        before = sorted(tmp_path.iterdir())
        with pytest.raises(BadBundleError):
            unpack_wheel(wheel, folder, "3.11", lambda _: None)
        assert sorted(tmp_path.iterdir()) == before

    def test_what_is_not_the_wheel_that_was_sealed_is_refused(self, tmp_path: Path) -> None:
        folder = tmp_path / "env"
        make_environment(folder, base_interpreter(), "3.11")
        wheel = tmp_path / "other-1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("other.py", "")
        before = sorted(folder.rglob("*"))
        with pytest.raises(BadBundleError, match=f"expected sha256 {'0' * 64}, found"):
            unpack_wheels(
                [SealedWheel(wheel, "0" * 64)],
                folder,
                "3.11",
                check_room=lambda _: None,
                progress=lambda _: None,
            )
        assert sorted(folder.rglob("*")) == before

    def test_what_is_no_wheel_is_refused(self, tmp_path: Path) -> None:
        folder = tmp_path / "env"
        make_environment(folder, base_interpreter(), "3.11")
        wheel = tmp_path / "bad-1-py3-none-any.whl"
        wheel.write_bytes(b"not a zip")
        with pytest.raises(BadBundleError):
            unpack_wheel(wheel, folder, "3.11", lambda _: None)
