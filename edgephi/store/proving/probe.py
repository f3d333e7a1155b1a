"""Whether a generation really answers on this machine, before anything relies on it.

The runner is started on it as it will be started later, in a process of its own that the kernel would end
before any other if memory ran out. It gets the manifest's prompt; its answer must begin as the greedy answer
did when the bundle was built, and come fast enough. A process that takes more memory than the bundle
declares, or more time than it can need, is killed: for memory by the kernel where a control group can be
made, and everywhere by us, who look at it again and again.
"""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.manifest import Manifest, Probe
from edgephi.errors import ProbeFailedError
from edgephi.machine.memory import available_memory
from edgephi.processes.child_process import start_child
from edgephi.store.proving.memory_group import limited_memory

# A bundle of an older edgephi says nothing about its answers: any answer proves that it loads and generates.
_ANY_ANSWER = Probe(prompt="Say hello.", expected="", max_tokens=8)

_WATCH_SECONDS = 0.02
_START_SECONDS = 120.0  # Python, the engine's libraries and a slow processor
_SLOWEST_READ = 10e6  # bytes per second: a slow SD card
_SLOWEST_TOKEN_SECONDS = 5.0
# What a manifest declares is a peak at the full context, and counts the engine itself: this is for rounding.
_MEMORY_SHARE = 1.25
_MEMORY_MARGIN_BYTES = 32 << 20
_LONGEST_SHOWN = 60


@dataclass(frozen=True)
class ProbeResult:
    """What the runner did. `memory_bytes` is its peak, `seconds` from its start to its end.

    When the device was `emulated`, the speed is none of a device.
    """

    text: str
    tokens_per_second: float
    memory_bytes: int
    seconds: float
    emulated: bool = False

    @property
    def speed(self) -> str:
        """How fast it answered, in words."""
        return "in emulation" if self.emulated else f"at {self.tokens_per_second:,.1f} tokens/s"


def prove(
    bundle: Path, manifest: Manifest, *, interpreter: str, limit_seconds: float | None = None
) -> ProbeResult:
    """Have the bundle generate. Raises ProbeFailedError when that is not what its manifest says."""
    probe = manifest.probe or _ANY_ANSWER
    weights = sum(entry.size for entry in manifest.files)
    seconds = limit_seconds or (
        _START_SECONDS + weights / _SLOWEST_READ + probe.max_tokens * _SLOWEST_TOKEN_SECONDS
    )
    run = _run(bundle, probe, interpreter, memory_limit(manifest), seconds)
    answer = _answer(manifest, run)
    text = str(answer["text"])
    speed = float(answer["timings"]["decode_tokens_per_second"])
    generated = int(answer["tokens"]["generated"])
    if generated < 1:
        raise _failed(manifest, "expected an answer, found none")
    if not text.startswith(probe.expected):
        raise _failed(
            manifest, f"expected an answer that begins {_shown(probe.expected)}, found {_shown(text)}"
        )
    emulated = bool(answer.get("emulated"))
    # One token comes from the prompt, and says nothing about the speed.
    if generated > 1 and not emulated and speed < probe.minimum_tokens_per_second:
        raise _failed(
            manifest,
            f"expected {probe.minimum_tokens_per_second:.1f} tokens/s or more, found {speed:.1f}",
            hint="stop what else runs on the device, then try again; or build it smaller",
        )
    return ProbeResult(text, speed, run.memory_bytes, run.seconds, emulated)


@dataclass(frozen=True)
class MemoryLimit:
    """The most bytes that the runner may take, and in a few words why that many."""

    size: int
    reason: str


def memory_limit(manifest: Manifest) -> MemoryLimit:
    """What the manifest declares and a margin; where less is free, that."""
    declared = int(manifest.requires.memory_bytes * _MEMORY_SHARE) + _MEMORY_MARGIN_BYTES
    free = available_memory()
    if free < declared:
        return MemoryLimit(free, "which is all that is free")
    return MemoryLimit(declared, "which the bundle declares, with a margin")


@dataclass(frozen=True)
class _Run:
    """How the runner ended. `killed_for` is why we ended it, "" when it ended by itself."""

    code: int
    output: bytes
    errors: bytes
    memory_bytes: int
    seconds: float
    killed_for: str


def _run(bundle: Path, probe: Probe, interpreter: str, limit: MemoryLimit, most_seconds: float) -> _Run:
    with limited_memory(limit.size) as group:
        start = time.monotonic()
        process = start_child(
            # -P: a module of the working directory must not stand in for one of ours.
            [
                *(interpreter, "-P", "-m", "edgephi.cli", "run", str(bundle.absolute()), "-"),
                *("--json", "--max-tokens", str(probe.max_tokens)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        said: list[bytes] = [b"", b""]

        def talk() -> None:
            said[:] = process.communicate(probe.prompt.encode())

        talking = threading.Thread(target=talk, daemon=True)
        peak, killed_for = 0, ""
        try:
            if group is not None:
                group.take(process.pid)
            _offer_to_the_kernel(process.pid)
            talking.start()
            while talking.is_alive() and not killed_for:
                talking.join(_WATCH_SECONDS)
                peak = max(peak, _resident_bytes(process.pid))
                if peak > limit.size:
                    killed_for = _too_much(limit)
                elif time.monotonic() - start > most_seconds:
                    killed_for = f"expected an answer within {most_seconds:.0f} s, found none"
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            talking.join()
        if group is not None and group.has_killed:
            killed_for = _too_much(limit)
    return _Run(process.returncode, said[0], said[1], peak, time.monotonic() - start, killed_for)


def _too_much(limit: MemoryLimit) -> str:
    return f"expected at most {limit.size / 1e6:,.0f} MB of memory, {limit.reason}, found more"


def _answer(manifest: Manifest, run: _Run) -> "dict[str, dict[str, float]]":
    """The runner's JSON document. Raises ProbeFailedError with its own words when there is none."""
    if run.killed_for:
        raise _failed(manifest, run.killed_for)
    if run.code == -signal.SIGKILL:
        raise _failed(manifest, "the kernel ended it, most likely because memory ran out")
    if run.code:
        ending = signal.Signals(-run.code).name if run.code < 0 else f"exit code {run.code}"
        lines = run.errors.decode(errors="replace").splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        raise _failed(manifest, f"its process ended with {ending}{': ' if errors else ''}{''.join(errors)}")
    try:
        answer: dict[str, dict[str, float]] = json.loads(run.output)
        answer["timings"]["decode_tokens_per_second"], answer["tokens"]["generated"], answer["text"]
    except (ValueError, KeyError, TypeError):
        raise _failed(manifest, "expected its answer as JSON, found something else") from None
    return answer


def _offer_to_the_kernel(pid: int) -> None:
    """When memory runs out, the kernel shall end the probe and not what serves the device."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


def _resident_bytes(pid: int) -> int:
    """Memory that a process holds now; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    sizes = (line.split()[1] for line in lines if line.startswith(("VmRSS:", "VmSwap:")))
    return sum(int(size) << 10 for size in sizes)


def _failed(manifest: Manifest, problem: str, hint: str = "") -> ProbeFailedError:
    return ProbeFailedError(
        f"probe of {manifest.name}: {problem}",
        hint=hint or "what ran before still runs; build the bundle again, for a target that fits this device",
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…")
