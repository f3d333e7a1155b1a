"""Bundles onto a box over ssh: a real sshd, a real agent, the real engine."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from edgephi.bundle.chunks import CHUNK_BYTES, chunks_of
from edgephi.bundle.files import check_files
from edgephi.bundle.manifest import read_manifest
from edgephi.errors import EdgephiError
from edgephi.flash.destination import read_box
from edgephi.flash.folder import folder_source
from edgephi.flash.ssh.many import BoxResult, flash_all
from edgephi.flash.ssh.transfer import TransferSettings
from edgephi.store.disk.layout import Layout
from edgephi.store.disk.lock import holder
from tests.flash.ssh.sshd import Sshd, make_key
from tests.processes.living import is_gone
from tests.store.bundles import BALLAST, digest_of, flip_bit, remade

COMMAND = [sys.executable, "-P", "-m", "edgephi.cli"]


class Watch:
    """A watcher that remembers what it was told, and calls `on_bytes` with the bytes sent so far."""

    def __init__(self, on_bytes=lambda _sent: None) -> None:  # type: ignore[no-untyped-def]
        self.steps: list[str] = []
        self.notes: list[str] = []
        self.sent = 0
        self._on_bytes = on_bytes

    def begin(self, title: str, _size: int) -> None:
        self.steps.append(title)

    def count(self, units: int) -> None:
        if self.steps[-1] == "send":
            self.sent += units
            self._on_bytes(self.sent)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def end(self, error: EdgephiError | None) -> None:
        pass


def edgephi(server: Sshd, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run the command as the user who connects."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def flash_here(
    server: Sshd, bundle: Path, root: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch, **settings: object
) -> BoxResult:
    """Flash from this process, so that a test can look on."""
    monkeypatch.setenv("HOME", str(server.home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (result,) = flash_all(
        folder_source(bundle),
        [read_box(server.destination(root))],
        TransferSettings(**settings),  # type: ignore[arg-type]
        lambda _box: watch,
    )
    return result


def active(root: Path) -> str:
    """The digest of the active generation, whose files are checked."""
    bundle = (root / "current").resolve()
    check_files(bundle, read_manifest(bundle))
    return bundle.name


def one_line_error(done: "subprocess.CompletedProcess[str]") -> str:
    """The message of a command that failed: one line, a hint, and no traceback."""
    lines = [line for line in done.stderr.splitlines() if line]
    assert lines[-2].startswith("error: ") and lines[-1].startswith("hint: "), done.stderr
    assert "Traceback" not in done.stderr
    return lines[-2]


class TestWhole:
    def test_a_bundle_is_sent_proven_and_active_and_again_sends_nothing(
        self, box: Sshd, demo_bundle: Path, root: Path
    ) -> None:
        done = edgephi(box, "flash", demo_bundle, box.destination(root))
        assert done.returncode == 0, done.stderr
        assert "is active" in done.stdout and "tokens/s" in done.stdout
        assert active(root) == digest_of(demo_bundle)
        again = json.loads(edgephi(box, "flash", demo_bundle, box.destination(root), "--json").stdout)
        assert again["was_current"] and again["sent_bytes"] == 0
        assert again["saved_bytes"] == sum(entry.size for entry in read_manifest(demo_bundle).files)

    def test_two_first_flashes_at_once_both_succeed(self, box: Sshd, demo_bundle: Path, root: Path) -> None:
        """Each has an agent of its own there: one makes the store while the other waits."""
        command = [*COMMAND, "flash", str(demo_bundle), box.destination(root), "--json"]
        pipe = subprocess.PIPE
        flashes = [
            subprocess.Popen(command, env=box.environment, stdout=pipe, stderr=pipe, text=True)
            for _ in range(2)
        ]
        said = [each.communicate(timeout=120) for each in flashes]
        assert [each.returncode for each in flashes] == [0, 0], said
        assert sorted(json.loads(output)["was_current"] for output, _ in said) == [False, True]
        assert active(root) == digest_of(demo_bundle)

    def test_nothing_is_left_outside_the_store(self, box: Sshd, demo_bundle: Path, root: Path) -> None:
        assert edgephi(box, "flash", demo_bundle, box.destination(root)).returncode == 0
        # onnxruntime itself keeps notes, wherever it runs.
        assert {path.name for path in box.far_home.iterdir()} <= {".cache"}
        assert {path.name for path in box.far_temporary.iterdir()} <= {".ses"}
        assert list(root.parent.iterdir()) == [root]
        assert box.agents() == []

    def test_the_store_is_looked_after_from_here(
        self, box: Sshd, demo_bundle: Path, large: Path, root: Path
    ) -> None:
        there = box.destination(root)
        for bundle in (demo_bundle, large):
            assert edgephi(box, "flash", bundle, there).returncode == 0
        found = json.loads(edgephi(box, "status", there, "--scrub", "--json").stdout)
        assert [(each["role"], each["digest"]) for each in found["generations"]] == [
            ("current", digest_of(large)),
            ("previous", digest_of(demo_bundle)),
        ]
        assert found["damages"] == []
        done = json.loads(edgephi(box, "rollback", there, "--json").stdout)
        assert (done["digest"], done["left"]) == (digest_of(demo_bundle), digest_of(large))
        assert done["probe"]["text"], "it answered on the box"
        assert active(root) == digest_of(demo_bundle)
        assert "nothing to remove" in edgephi(box, "gc", there).stdout

    def test_a_roll_back_on_a_box_refuses_what_flash_would_refuse(
        self, box: Sshd, demo_bundle: Path, large: Path, root: Path
    ) -> None:
        there = box.destination(root)
        for bundle in (demo_bundle, large):
            assert edgephi(box, "flash", bundle, there).returncode == 0
        flip_bit(root / "previous" / "model" / "model.onnx.data", 1000)  # both bundles have that file
        done = edgephi(box, "rollback", there)
        assert done.returncode == 4
        assert "model/model.onnx.data: expected sha256" in done.stderr
        assert (root / "current").readlink().name == digest_of(large)
        assert edgephi(box, "rollback", there, "--elsewhere").returncode == 2

    def test_two_files_of_one_content_are_sent_once(
        self, box: Sshd, demo_bundle: Path, root: Path, tmp_path: Path
    ) -> None:
        data = bytes(range(256)) * 40
        twice = remade(demo_bundle, tmp_path / "twice", {BALLAST: data, "model/again.bin": data})
        done = edgephi(box, "flash", twice, box.destination(root), "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["saved_bytes"] == len(data)
        assert active(root) == digest_of(twice)

    def test_a_path_may_begin_at_the_users_home(self, box: Sshd, demo_bundle: Path) -> None:
        done = edgephi(box, "flash", demo_bundle, box.destination("/~/models"))
        assert done.returncode == 0, done.stderr
        assert active(box.far_home / "models") == digest_of(demo_bundle)

    def test_what_the_box_refuses_is_said_in_its_words(
        self, box: Sshd, demo_bundle: Path, root: Path
    ) -> None:
        root.mkdir()
        (root / "photo.jpg").write_bytes(b"mine")
        done = edgephi(box, "flash", demo_bundle, box.destination(root))
        assert done.returncode == 2
        assert f"127.0.0.1:{box.port}: {root}: expected a store" in one_line_error(done)
        assert [path.name for path in root.iterdir()] == ["photo.jpg"]

    def test_a_disk_that_is_too_small_is_refused_before_anything_is_sent(
        self, box: Sshd, large: Path, root: Path
    ) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root, to mount a small disk")
        root.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(root)], check=True)
        try:
            done = edgephi(box, "flash", large, box.destination(root / "store"))
            assert done.returncode == 3
            assert "of disk" in one_line_error(done)
        finally:
            subprocess.run(["umount", str(root)], check=True)


class TestCuts:
    @pytest.mark.slow
    def test_ten_cuts_cost_two_chunks_each_at_most(
        self, box: Sshd, large: Path, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cuts: list[int] = []

        def cut(sent: int) -> None:
            since = sent - (cuts[-1] if cuts else 0)
            if len(cuts) < 10 and since >= 2 * CHUNK_BYTES:
                cuts.append(sent)
                box.kill()
                box.start()

        result = flash_here(box, large, root, Watch(cut), monkeypatch)
        assert result.error is None
        assert result.transfer.cuts == 10
        assert active(root) == digest_of(large)
        files = read_manifest(large).files
        total = sum(entry.size for entry in files)
        largest = max(chunk.size for entry in files for chunk in chunks_of(entry))
        assert result.transfer.resent_bytes <= 10 * 2 * largest
        assert result.transfer.sent_bytes == total + result.transfer.resent_bytes

    def test_an_agent_that_dies_is_started_again(
        self, box: Sshd, large: Path, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        killed: list[int] = []

        def kill(sent: int) -> None:
            if sent > 20 << 20 and not killed:
                killed.extend(box.agents())
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)

        watch = Watch(kill)
        result = flash_here(box, large, root, watch, monkeypatch)
        assert result.error is None and result.transfer.cuts == len(killed) == 1
        assert "SIGKILL ended it" in watch.notes[0]
        assert active(root) == digest_of(large)

    @pytest.mark.slow
    def test_an_agent_that_dies_leaves_no_probe(self, box: Sshd, demo_bundle: Path, root: Path) -> None:
        command = [*COMMAND, "flash", str(demo_bundle), box.destination(root)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=box.environment, stdout=pipe, stderr=pipe, text=True) as flash:
            probes: list[psutil.Process] = []
            while not probes and flash.poll() is None:
                for agent in box.agents():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        for child in psutil.Process(agent).children():
                            if child.cmdline()[2:4] == ["-m", "edgephi.runtime.proof.first_answer"]:
                                child.suspend()  # so that it cannot come to its end by itself
                                probes.append(child)
                                os.kill(agent, signal.SIGKILL)
            said = flash.communicate(timeout=60)
        assert probes, said
        end = time.monotonic() + 20
        while time.monotonic() < end and not is_gone(probes[0]):
            time.sleep(0.02)
        assert is_gone(probes[0])
        assert flash.returncode == 0, said
        assert active(root) == digest_of(demo_bundle)

    def test_a_box_that_stays_away_is_given_up_and_goes_on_later(
        self, box: Sshd, large: Path, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gone: list[bool] = []

        def leave(sent: int) -> None:
            if sent > 20 << 20 and not gone:
                gone.append(True)
                box.kill()

        result = flash_here(box, large, root, Watch(leave), monkeypatch, tries=3)
        assert result.error is not None and result.error.exit_code == 6
        assert not (root / "current").exists()
        box.start()
        later = flash_here(box, large, root, Watch(), monkeypatch)
        assert later.error is None
        assert later.transfer.saved_bytes >= 20 << 20
        assert active(root) == digest_of(large)

    def test_ctrl_c_leaves_no_agent_no_lock_and_what_has_arrived(
        self, box: Sshd, large: Path, root: Path
    ) -> None:
        process = subprocess.Popen(
            [*COMMAND, "flash", str(large), box.destination(root), "--limit-rate", "20MB"],
            env=box.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        parts = root / "parts" / "journal"
        wait_for(parts.exists)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
        assert process.returncode == 130
        assert "Traceback" not in errors and "error" not in errors
        assert "what has arrived is kept" in errors
        wait_for(lambda: not box.agents())
        assert holder(Layout(root)) is None
        done = json.loads(edgephi(box, "flash", large, box.destination(root), "--json").stdout)
        assert done["saved_bytes"] > 1 << 20
        assert active(root) == digest_of(large)


class TestABundleThatChanged:
    """One chunk of the ballast is not the one that was sealed."""

    @pytest.fixture
    def changed(self, large: Path, tmp_path: Path) -> Path:
        bundle = shutil.copytree(large, tmp_path / "changed")
        flip_bit(bundle / BALLAST, 4 * CHUNK_BYTES)
        return bundle

    def test_on_a_slow_line_it_is_refused_at_that_chunk(
        self, box: Sshd, changed: Path, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        result = flash_here(box, changed, root, Watch(), monkeypatch, bytes_per_second=20_000_000)
        assert re.search(rf"{BALLAST}: expected a chunk at {4 * CHUNK_BYTES} ", str(result.error))
        others = sum(entry.size for entry in read_manifest(changed).files if entry.path != BALLAST)
        assert result.transfer.sent_bytes <= others + 10 * CHUNK_BYTES, "the rest was sent for nothing"

    def test_on_any_line_what_came_before_it_is_kept(
        self, box: Sshd, changed: Path, large: Path, root: Path
    ) -> None:
        there = box.destination(root)
        done = edgephi(box, "flash", changed, there)
        assert done.returncode == 4, done.stderr
        assert f"{BALLAST}: expected a chunk at {4 * CHUNK_BYTES} " in one_line_error(done)
        assert not (root / "current").exists()
        again = json.loads(edgephi(box, "flash", large, there, "--json").stdout)
        assert again["saved_bytes"] >= 4 * CHUNK_BYTES
        assert active(root) == digest_of(large)


class TestRate:
    def test_a_limit_holds_and_all_arrives(self, box: Sshd, demo_bundle: Path, root: Path) -> None:
        size = sum(entry.size for entry in read_manifest(demo_bundle).files)
        begun = time.monotonic()
        done = edgephi(box, "flash", demo_bundle, box.destination(root), "--limit-rate", "500kB", "--json")
        seconds = time.monotonic() - begun
        assert done.returncode == 0, done.stderr
        assert size / 500e3 < seconds < 2 * size / 500e3 + 3
        assert active(root) == digest_of(demo_bundle)

    @pytest.mark.parametrize("rate", ["0", "fast", "-1"])
    def test_a_rate_is_more_than_nothing(self, box: Sshd, demo_bundle: Path, root: Path, rate: str) -> None:
        done = edgephi(box, "flash", demo_bundle, box.destination(root), "--limit-rate", rate)
        assert done.returncode == 2
        one_line_error(done)


class TestWhoItIs:
    def test_a_box_with_another_key_than_known_is_refused(
        self, box: Sshd, demo_bundle: Path, root: Path, tmp_path: Path
    ) -> None:
        make_key(tmp_path / "other")
        box.write_known_hosts(tmp_path / "other")
        done = edgephi(box, "flash", demo_bundle, box.destination(root))
        assert done.returncode == 6
        assert re.search(
            r"the host key in known_hosts, found another: ssh-ed25519 SHA256:", one_line_error(done)
        )
        assert not root.exists()

    @pytest.mark.parametrize("config", ["", "UserKnownHostsFile none\n", "UserKnownHostsFile /dev/null\n"])
    def test_a_box_that_nobody_knows_is_refused(
        self, box: Sshd, demo_bundle: Path, root: Path, config: str
    ) -> None:
        (box.home / ".ssh" / "known_hosts").unlink()
        (box.home / ".ssh" / "config").write_text(config)
        done = edgephi(box, "flash", demo_bundle, box.destination(root))
        assert done.returncode == 6
        assert "expected a host key in known_hosts, found none" in one_line_error(done)
        assert "ssh-keygen -lf" in done.stderr
        assert not root.exists()

    def test_a_key_that_the_box_does_not_take(self, box: Sshd, demo_bundle: Path, root: Path) -> None:
        for key in (box.home / ".ssh").glob("id_ed25519*"):
            key.unlink()
        make_key(box.home / ".ssh" / "id_ed25519")
        done = edgephi(box, "flash", demo_bundle, box.destination(root))
        assert done.returncode == 6
        assert "expected one of your keys to open it" in one_line_error(done)

    def test_nobody_at_the_port(self, box: Sshd, demo_bundle: Path, root: Path) -> None:
        box.kill()
        done = edgephi(box, "flash", demo_bundle, box.destination(root))
        box.start()
        assert done.returncode == 6
        assert "connection refused" in one_line_error(done)

    def test_the_users_configuration_holds(self, box: Sshd, demo_bundle: Path, root: Path) -> None:
        key = box.home / "key-for-boxes"
        shutil.move(box.home / ".ssh" / "id_ed25519", key)
        (box.home / ".ssh" / "config").write_text(
            f"Host Kitchen\n  HostName 127.0.0.1\n  Port {box.port}\n  IdentityFile {key}\n"
        )
        done = edgephi(box, "flash", demo_bundle, f"ssh://Kitchen{root}")
        assert done.returncode == 0, done.stderr
        assert active(root) == digest_of(demo_bundle)

    def test_a_key_in_the_agent_opens_a_box(self, box: Sshd, demo_bundle: Path, root: Path) -> None:
        key = box.home / ".ssh" / "id_ed25519"
        said = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
        facts = dict(re.findall(r"(SSH_\w+)=([^;]+);", said))
        try:
            subprocess.run(["ssh-add", "-q", str(key)], env={**os.environ, **facts}, check=True)
            key.unlink()
            done = subprocess.run(
                [*COMMAND, "flash", demo_bundle, box.destination(root)],
                env={**box.environment, **facts},
                capture_output=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        finally:
            os.kill(int(facts["SSH_AGENT_PID"]), signal.SIGTERM)


class TestSeveral:
    def test_one_that_fails_holds_up_no_other(
        self, box: Sshd, demo_bundle: Path, root: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "device" / "taken").write_text("a file")
        roots = [root, root.with_name("second"), root.with_name("taken")]
        there = [box.destination(each) for each in roots]
        done = edgephi(box, "flash", demo_bundle, *there, "--parallel", 2, "--json")
        assert done.returncode == 6, done.stderr
        boxes = json.loads(done.stdout)["boxes"]
        assert [each["destination"] for each in boxes] == there
        assert [each["error"] is None for each in boxes] == [True, True, False]
        assert boxes[2]["error"]["exit_code"] == 2
        assert active(roots[0]) == active(roots[1]) == digest_of(demo_bundle)

    def test_a_table_says_how_each_ended(self, box: Sshd, demo_bundle: Path, root: Path) -> None:
        there = [box.destination(each) for each in (root, root.with_name("second"))]
        done = edgephi(box, "flash", demo_bundle, *there)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[0].split() == [
            "box",
            "result",
            "generation",
            "sent",
            "saved",
            "cuts",
            "time",
            "tokens/s",
        ]
        assert [line.split()[1] for line in lines[1:]] == ["active", "active"]
        assert done.stderr.count("active") == 2  # one line a box, while it goes on

    def test_a_box_is_named_once(self, box: Sshd, demo_bundle: Path, root: Path) -> None:
        done = edgephi(box, "flash", demo_bundle, box.destination(root), box.destination(root))
        assert done.returncode == 2
        assert "found it twice" in one_line_error(done)


def wait_for(condition, seconds: float = 20) -> None:  # type: ignore[no-untyped-def]
    """Return when a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.05)
