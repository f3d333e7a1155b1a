"""Ctrl-C at random moments: a command ends with its exit code, says nothing, and leaves nothing half done.

`python -m tests.cli.interrupts --count 1000` tries more of them.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.interrupts import interrupted, whole_seconds

MOMENTS = 12
# A module whose import takes a second, and which C++ could not leave: what has begun must be finished.
SLOW_MODULE = """
import time
for _ in range(100):
    time.sleep(0.01)
print("imported", flush=True)
"""


@pytest.mark.slow
def test_a_quickstart_ends_with_130_or_is_done(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    seconds = whole_seconds(tmp_path / "whole")
    draw = random.Random(20)
    endings = []
    for index in range(MOMENTS):
        folder = tmp_path / str(index)
        folder.mkdir()
        endings.append(interrupted(draw.uniform(0, seconds), folder))
    assert [ending for ending in endings if ending.problems] == []
    assert 130 in {ending.exit_code for ending in endings}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_no_signal_lands_in_an_import(tmp_path: Path, name: str) -> None:
    """Half a module, or half an extension, is what crashed: the signal waits for the end of the import."""
    (tmp_path / "slow_module.py").write_text(SLOW_MODULE)
    program = (
        "import edgephi.cli.inspect as command\n"
        "def read(bundle):\n"
        "    print('begins', flush=True)\n"
        "    import slow_module\n"
        "    while True: pass\n"
        "command.read_manifest = read\n"
        "from edgephi.cli.main import main; main(['inspect', '.'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        encoding="utf-8",
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        time.sleep(0.2)
        process.send_signal(signal.Signals[name])
        out, err = process.communicate(timeout=60)
    assert (out, err.strip(), process.returncode) == ("imported\n", "", 128 + signal.Signals[name])


# What Python or C calls by itself, at a moment that nobody chose: an exception from there goes nowhere.
CALLED_BY_NOBODY = {
    "an object that goes": """
class Goes:
    def __del__(self):
        interrupted()
Goes()
""",
    "a finalizer": """
import weakref
class Goes:
    pass
weakref.finalize(Goes(), interrupted)
""",
    "a loop that is being made": """
import asyncio.selector_events, socket
def socketpair(pair=socket.socketpair):
    interrupted()
    return pair()
socket.socketpair = socketpair
asyncio.new_event_loop()
""",
    "llama.cpp's log": """
import ctypes
from edgephi.runtime.engines.llama_cpp import library as llama_library
class Level:
    def __le__(self, _other):
        interrupted()
llama_library._ERROR_LEVEL = Level()
class Library:
    llama_max_devices = ctypes.CDLL(None).abs
    def llama_log_set(self, callback, _data):
        self.callback = callback
library = Library()
with llama_library.collected_errors(library):
    llama_library._LogCallback(library.callback.value)(4, b"text", None)
""",
}


@pytest.mark.parametrize("kind", CALLED_BY_NOBODY)
def test_an_interrupt_in_what_nobody_calls_is_not_lost(kind: str) -> None:
    """Python prints an exception that comes out of there, and goes on as if no Ctrl-C had come."""
    program = (
        "import os, signal, time\n"
        "import edgephi.cli.inspect as command\n"
        "def interrupted(kill=os.kill, own=os.getpid()):\n    kill(own, signal.SIGINT)\n    print('done')\n"
        f"def read(bundle):\n    exec({CALLED_BY_NOBODY[kind]!r}, globals())\n    time.sleep(5)\n"
        "command.read_manifest = read\n"
        "from edgephi.cli.main import main; main(['inspect', '.'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "done\n", "")


# What a loop of asyncio calls: an exception from there is logged, or lies in a task that nobody looks at.
CALLED_BY_A_LOOP = {
    "a callback": "asyncio.get_running_loop().call_soon(interrupted)",
    "a task": "task = asyncio.ensure_future(interrupted_task())",
}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("kind", CALLED_BY_A_LOOP)
def test_nor_in_what_a_loop_calls(kind: str, name: str) -> None:
    program = (
        "import asyncio, os, signal\n"
        "import edgephi.cli.inspect as command\n"
        f"def interrupted():\n    os.kill(os.getpid(), signal.{name})\n    print('done')\n"
        "async def interrupted_task():\n    interrupted()\n"
        f"async def work():\n    {CALLED_BY_A_LOOP[kind]}\n    await asyncio.sleep(5)\n"
        "command.read_manifest = lambda bundle: asyncio.run(work())\n"
        "from edgephi.cli.main import main; main(['inspect', '.'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    code = 128 + signal.Signals[name]
    assert (done.returncode, done.stdout, done.stderr.strip()) == (code, "done\n", "")


def test_a_signal_that_waits_is_for_who_handles_it_then() -> None:
    """As when it comes in the last import of `serve`, whose loop handles signals itself."""
    program = (
        "import asyncio, os, signal\n"
        "import edgephi.cli.inspect as command\n"
        "import edgephi.cli.terminal.interrupts as interrupts\n"
        "interrupts._AGAIN_SECONDS = 0.3\n"
        "async def work():\n"
        "    stop = asyncio.Event()\n"
        "    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)\n"
        "    await asyncio.wait_for(stop.wait(), 5)\n"
        "def read(bundle):\n"
        "    importing = compile('os.kill(os.getpid(), signal.SIGTERM)', 'import', 'exec')\n"
        "    exec(importing, {'__name__': 'importlib', 'os': os, 'signal': signal})\n"
        "    asyncio.run(work())\n"
        "    raise SystemExit(7)\n"
        "command.read_manifest = read\n"
        "from edgephi.cli.main import main; main(['inspect', '.'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (7, "")


def test_an_import_that_hangs_can_be_left_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "slow_module.py").write_text("while True: pass\n")
    program = (
        "import edgephi.cli.terminal.interrupts as interrupts, signal, os\n"
        "interrupts._LONGEST_WAIT_SECONDS = 0.3\n"
        "interrupts.handle_ending_signals()\n"
        "import threading; threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "try:\n    import slow_module\nexcept KeyboardInterrupt:\n    print('left')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert done.stdout == "left\n"


@pytest.mark.parametrize("module", ["click", "enum", "signal", "typing"])
def test_ctrl_c_while_the_program_is_being_imported(tmp_path: Path, module: str) -> None:
    """The first modules that are imported are the standard library's."""
    (tmp_path / f"{module}.py").write_text("import os\nos.kill(os.getpid(), 2)\nwhile True: pass\n")
    done = subprocess.run(
        # As pip's script does; `-m` imports some of these before it comes to us.
        [sys.executable, "-c", "from edgephi.cli.__main__ import main; main()"],
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_ctrl_c_when_all_is_done_changes_nothing_any_more(tmp_path: Path) -> None:
    """Python takes its handlers away before it ends: a signal then would be the process's death."""
    program = (
        "import atexit, os, signal\n"
        "from edgephi.cli.main import main\n"
        "class Last:\n    def __del__(self, kill=os.kill, own=os.getpid()): kill(own, 2)\n"
        "last = Last()\n"
        "main(['targets'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_that_waits_when_all_is_done_is_dropped(name: str) -> None:
    """It came in the command's last import, and would be looked at in the middle of Python's exit."""
    program = (
        "import atexit, importlib.util, os, signal, time\n"
        "import edgephi.cli.main as main\n"
        "atexit.register(time.sleep, 0.1)\n"
        "flush = main.output_problem\n"
        "def flushed():\n"
        f"    importing = compile('os.kill(os.getpid(), signal.{name})', 'import', 'exec')\n"
        "    exec(importing, {'__name__': 'importlib', 'os': os, 'signal': signal})\n"
        "    return flush()\n"
        "main.output_problem = flushed\n"
        "main.main(['targets'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_while_the_output_is_written_out_shows_no_traceback(name: str) -> None:
    program = (
        "import os, signal\n"
        "import edgephi.cli.main as main\n"
        f"main.output_problem = lambda: os.kill(os.getpid(), signal.{name})\n"
        "main.main(['targets'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert done.returncode in (0, 128 + signal.Signals[name])
    assert done.stderr == b""


def test_a_lock_is_not_left_by_ctrl_c_while_it_is_taken(tmp_path: Path) -> None:
    program = (
        "import fcntl, os, signal, pathlib\n"
        "from edgephi.bundle.unfinished import unfinished_bundle\n"
        "from edgephi.cli.terminal.interrupts import handle_ending_signals\n"
        "handle_ending_signals()\n"
        "flock = fcntl.flock\n"
        "def interrupted(*arguments):\n    os.kill(os.getpid(), signal.SIGINT)\n    flock(*arguments)\n"
        "fcntl.flock = interrupted\n"
        "try:\n"
        "    with unfinished_bundle(pathlib.Path('out'), needs_bytes=0): signal.pause()\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False
    )
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "fault",
    [
        "def begun(self):\n    start(self)\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "start, threading.Thread.start = threading.Thread.start, begun\n",
        "def refused(*_arguments):\n    raise OSError(12, 'Cannot allocate memory')\n"
        "bandwidth.mmap.mmap = refused\n",
        "made, maps = bandwidth.mmap.mmap, iter([1])\n"
        "def once(*words):\n    if next(maps, None) is None: raise MemoryError\n    return made(*words)\n"
        "bandwidth.mmap.mmap = once\n",
    ],
    ids=["Ctrl-C between two of its threads", "no memory", "memory for one of them"],
)
def test_a_measurement_of_memory_ends_when_a_thread_of_it_is_missing(fault: str) -> None:
    """The others wait for it at a barrier, and Python's exit waits for them."""
    program = (
        "import os, signal, threading\n"
        "from edgephi.machine import bandwidth\n"
        f"{fault}"
        "try: bandwidth.read_bandwidth(1 << 30, threads=2)\n"
        "except (KeyboardInterrupt, MemoryError): print('ends')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.stdout, done.stderr) == ("ends\n", "")
