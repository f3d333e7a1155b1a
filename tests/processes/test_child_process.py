"""Children end with us: whichever command is killed, and whatever it does at that moment."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgephi
from edgephi.flash.ssh.agent_archive import agent_archive
from edgephi.processes.child_process import child_command, run_child, start_child
from tests.processes.living import lives

PACKAGE = Path(edgephi.__file__).parent
ONE_WAY = {"child_process.py", "with_parent.py"}
STARTS = {
    *(f"subprocess.{name}" for name in ("run", "Popen", "call", "check_call", "check_output", "getoutput")),
    *(f"os.{name}" for name in ("system", "popen", "fork", "forkpty", "posix_spawn", "posix_spawnp")),
    *("multiprocessing.Process", "multiprocessing.Pool"),
}
LONGEST_SECONDS = 20.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux does it")


class TestTheWay:
    def test_is_the_only_one(self) -> None:
        found = []
        for path in PACKAGE.rglob("*.py"):
            if path.name not in ONE_WAY:
                found += [
                    (path.name, line, name) for line, name in called(path.read_text()) if name in STARTS
                ]
        assert found == []
        assert list(called("import subprocess\nsubprocess.run(['true'])")) == [(2, "subprocess.run")]

    def test_a_parent_that_ends_at_once_leaves_nothing(self) -> None:
        """Whoever has ended before the kernel was asked for a signal sends none."""
        code = (
            "import os, sys\nfrom edgephi.processes.child_process import start_child\n"
            "for _ in range(3): print(start_child(['sleep', '600']).pid, flush=True)\n"
            "print(start_child(['sh', '-c', 'sleep 600'], with_its_own=True, start_new_session=True).pid)\n"
            "sys.stdout.flush(); os.kill(os.getpid(), 9)"
        )
        said = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
        pids = list(map(int, said.stdout.split()))
        assert len(pids) == 4
        end = time.monotonic() + LONGEST_SECONDS
        while time.monotonic() < end and any(lives(pid) for pid in pids):
            time.sleep(0.02)
        assert [pid for pid in pids if lives(pid)] == []

    def test_what_a_child_starts_can_end_with_us_too(self) -> None:
        code = (
            "import sys\nfrom edgephi.processes.child_process import start_child\n"
            "start_child(['sh', '-c', 'sleep 601 & echo $!; wait'], with_its_own=True,"
            " start_new_session=True).wait()"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            grandchild = int(process.stdout.readline())
            assert lives(grandchild)
            process.kill()
        end = time.monotonic() + LONGEST_SECONDS
        while time.monotonic() < end and lives(grandchild):
            time.sleep(0.02)
        assert not lives(grandchild)

    def test_the_end_of_a_thread_is_not_ours(self) -> None:
        started: list[subprocess.Popen[bytes]] = []
        thread = threading.Thread(target=lambda: started.append(start_child(["sleep", "600"])))
        thread.start()
        thread.join()
        time.sleep(0.5)
        assert started[0].poll() is None
        started[0].kill()
        started[0].wait()

    def test_a_program_is_as_it_would_be_without(self, tmp_path: Path) -> None:
        """Its exit code, its signals, its words, its input, its folder; and one that is not there."""
        assert run_child(["sh", "-c", "exit 7"]).returncode == 7
        assert run_child(["sh", "-c", "kill -TERM $$"]).returncode == -signal.SIGTERM
        script = 'cat; printf "%s|" "$@"; pwd; grep SigIgn /proc/self/status'
        words = ["sh", "-c", script, "name", "a b", "", "--", "$(x)"]
        done = run_child(words, input=b"in", capture_output=True, cwd=tmp_path)
        plain = subprocess.run(words, input=b"in", capture_output=True, cwd=tmp_path, check=False)
        assert (done.stdout, done.stderr, done.returncode) == (plain.stdout, plain.stderr, 0)
        for name in ("no-such-program", str(tmp_path / "none")):
            with pytest.raises(FileNotFoundError, match=name):
                run_child([name])
        (tmp_path / "text").write_text("no program")
        done = run_child([str(tmp_path / "text")], capture_output=True)
        assert done.returncode == 126 and b"Permission denied" in done.stderr

    def test_in_a_group_too(self) -> None:
        for script, code in (("exit 7", 7), ("kill -TERM $$", -signal.SIGTERM), ("kill -KILL $$", -9)):
            with start_child(["sh", "-c", script], with_its_own=True, start_new_session=True) as process:
                assert process.wait() == code

    def test_an_agent_starts_no_module_of_another_edgephi(self, tmp_path: Path) -> None:
        """It runs from an archive, by a Python whose own edgephi may be of any version."""
        (tmp_path / "agent.zip").write_bytes(agent_archive()[4:])
        code = (
            f"import sys; sys.path.insert(0, {str(tmp_path / 'agent.zip')!r})\n"
            "from edgephi.processes.child_process import child_command, run_child\n"
            "command = [sys.executable, '-P', '-m', 'edgephi.none']\n"
            "print(child_command(command)[6:], run_child(['sh', '-c', 'exit 7']).returncode)"
        )
        words = [sys.executable, "-I", "-S", "-c", code]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        expected = ["program", sys.executable, "-P", "-m", "edgephi.none"]
        assert (done.stdout.strip(), done.stderr) == (f"{expected} 7", "")

    def test_a_module_of_ours_is_started_once(self) -> None:
        words = [sys.executable, "-P", "-m", "edgephi.cli", "--version"]
        command = child_command(words)
        assert command[:4] == [*words[:3], "edgephi.processes.with_parent"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        plain = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr, done.returncode) == (plain.stdout, plain.stderr, 0)


def called(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of every call of a module's function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.lineno, ast.unparse(node.func)
