"""The system calls of a process: seen one by one, and one of them made to kill it or to fail (strace).

A killed process dies before the call does anything: killing at every call leaves every state between two
calls.
"""

import os
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.chunks import CHUNK_BYTES
from edgephi.store.disk.parts import WRITE_BYTES

DURABLE = ("fsync", "fdatasync", "syncfs", "sync_file_range")
NAMING = (
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("unlink", "unlinkat", "mkdir", "mkdirat", "rmdir"),
)
WRITING = ("write", "pwrite64", "writev", "pwritev", "copy_file_range", "sendfile", "ftruncate", "fallocate")
_WRITES_A_CHUNK = CHUNK_BYTES // WRITE_BYTES
READING = (
    "read",
    "pread64",
    "preadv",
    "readlink",
    "readlinkat",
    "getdents64",
    "newfstatat",
    "statfs",
    "fstatfs",
)
OPENING = ("open", "openat")

_CALL = re.compile(r"^(\d+) +(\w+)\((.*)$")


@dataclass(frozen=True)
class Call:
    """The `number`-th call `name` of one thread, from 1, as strace counts; `text` has its arguments.

    `in_main`: the thread is the one in which the command began.
    """

    name: str
    number: int
    in_main: bool
    text: str

    def __str__(self) -> str:
        return f"{self.name} {self.number}: {self.text}"


def calls(command: list[str], names: tuple[str, ...], below: Path, environment: dict[str, str]) -> list[Call]:
    """Run a command to its end; its calls `names` that have to do with a path below the folder `below`.

    Where two threads make the same call as often, it counts once. Raises RuntimeError when the command fails.
    """
    with tempfile.NamedTemporaryFile(prefix="edgephi-strace-") as log:
        # With a filter in the kernel only these calls stop the process: the others cost nothing.
        options = ["-f", "--seccomp-bpf", "-y", "-s", "300", "-o", log.name, *_trace((*names, "execve"))]
        done = _strace(options, command, environment)
        if done.returncode:
            raise RuntimeError(f"traced: {' '.join(command)}: {done.returncode}: {done.stderr}")
        lines = Path(log.name).read_text(errors="replace").splitlines()
    main = lines[0].split()[0]
    seen: Counter[tuple[str, str]] = Counter()
    found: dict[tuple[str, int], Call] = {}
    for line in lines:
        if match := _CALL.match(line):
            task, name, text = match.groups()
            seen[task, name] += 1
            number = seen[task, name]
            if name in names and str(below) in text:
                call = Call(name, number, task == main, text.replace(str(below), "ROOT"))
                if call.in_main or (name, number) not in found:
                    found[name, number] = call
    return list(found.values())


def injected(
    command: list[str], call: Call, effect: str, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command again, and something happens at one of its calls: `effect` in strace's words.

    A killed one ends with -SIGKILL.
    """
    # A child, such as the probe, counts its calls for itself: it is left alone where that can be.
    followed = [] if call.in_main else ["-f"]
    # Where the kernel filters the calls for strace, a signal cannot be put in at one.
    filtered = ["--seccomp-bpf"] if followed and "signal=" not in effect else []
    inject = f"inject={call.name}:{effect}:when={call.number}"
    options = [*followed, *filtered, "-o", os.devnull, *_trace((call.name,)), "-e", inject]
    return _strace(options, command, environment)


def slowed(command: list[str], names: tuple[str, ...], microseconds: int) -> list[str]:
    """The same command with a pause before each of its calls `names`, which stretches short steps.

    Those that write contents pause for a part of that: a chunk takes many of them.
    """
    writing = tuple(name for name in names if name in WRITING)
    others = tuple(name for name in names if name not in WRITING)
    effects = [
        word
        for each, pause in ((others, microseconds), (writing, microseconds // _WRITES_A_CHUNK))
        if each
        for word in ("-e", f"inject={','.join(each)}:delay_enter={pause}")
    ]
    return ["strace", "-f", "-qq", "--seccomp-bpf", "-o", os.devnull, *_trace(names), *effects, *command]


def _trace(names: tuple[str, ...]) -> list[str]:
    return ["-e", f"trace={','.join(names)}", "-e", "signal=none"]


def _strace(
    options: list[str], command: list[str], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["strace", "-qq", *options, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
