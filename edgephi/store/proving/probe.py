"""Whether a generation really answers on this machine, before anything relies on it.

The runner is started on it as it will be started later, in a process of its own that the kernel would end
before any other if memory ran out. It gets the manifest's prompt; its answer must begin as the greedy answer
did when the bundle was built, and come fast enough. A process that takes more memory than the bundle
declares, or more time than it can need, is killed: for memory by the kernel where a control group can be
made, and everywhere by us, who look at it again and again.

The edgephi that runs the bundle is not always the one of this store: a bundle brings its own in its wheels,
and the store may have come from the machine that flashes. So it is asked by what is promised between
versions: `edgephi.runtime.proof.first_answer` where it has that, which it says by itself, else by its command
line. That costs the start of one Python more, and only where an older edgephi is.
"""

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from edgephi.bundle.manifest import Manifest
from edgephi.bundle.probe import Probe
from edgephi.errors import EdgephiError, ProbeFailedError
from edgephi.machine.memory import available_memory
from edgephi.processes.ask import Asked, NoAnswerError
from edgephi.runtime.proof.adapter_answers import AdapterAnswers, AdapterProbe, AdapterQuestions
from edgephi.runtime.proof.first_answer import FirstAnswer, FirstQuestion
from edgephi.runtime.proof.picture_answer import PictureAnswer, PictureQuestion
from edgephi.store.proving.by_command import AskedByCommand
from edgephi.store.proving.memory_group import limited_memory

Answer = TypeVar("Answer")
Process = TypeVar("Process", Asked, AskedByCommand)
Look = Callable[[], None]

# What was built without a look at its answers says nothing of them: any proves that it loads and generates.
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

    `about_picture` is what a bundle that sees said about its picture, "" of one without. When the device was
    `emulated`, the speed is none of a device.
    """

    text: str
    tokens_per_second: float
    memory_bytes: int
    seconds: float
    emulated: bool = False
    about_picture: str = ""

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
    question = FirstQuestion(str(bundle.absolute()), probe.prompt, probe.max_tokens)
    limit = memory_limit(manifest)
    run = _answered(manifest, limit, lambda: _run(question, interpreter, limit, seconds))
    answer = run.answer
    text, speed = answer.text, answer.decode_tokens_per_second
    if answer.generated_tokens < 1:
        raise _failed(manifest, "expected an answer, found none")
    if not text.startswith(probe.expected):
        raise _failed(
            manifest, f"expected an answer that begins {_shown(probe.expected)}, found {_shown(text)}"
        )
    # One token comes from the prompt, and says nothing about the speed.
    is_measured = answer.generated_tokens > 1 and not answer.emulated
    if is_measured and speed < probe.minimum_tokens_per_second:
        raise _failed(
            manifest,
            f"expected {probe.minimum_tokens_per_second:.1f} tokens/s or more, found {speed:.1f}",
            hint="stop what else runs on the device, then try again; or build it smaller",
        )
    memory, also = _prove_adapters(bundle, manifest, interpreter, limit, seconds)
    said, seeing, looked = _prove_picture(bundle, manifest, interpreter, limit, seconds)
    peak = max(run.memory_bytes, memory, seeing)
    return ProbeResult(text, speed, peak, run.seconds + also + looked, answer.emulated, said)


def _prove_picture(
    bundle: Path, manifest: Manifest, interpreter: str, limit: "MemoryLimit", seconds: float
) -> tuple[str, int, float]:
    """Have a bundle that sees answer about its picture. Returns that, the most bytes it held, and seconds."""
    probe = manifest.picture_probe
    if probe is None:
        return "", 0, 0.0
    place = bundle.absolute()
    question = PictureQuestion(str(place), str(place / probe.picture), probe.prompt, probe.max_tokens)
    run = _answered(
        manifest,
        limit,
        lambda: _watched(
            lambda: Asked(question, interpreter=interpreter, own_session=True),
            lambda asked, look: asked.answer(
                PictureAnswer, seconds=2 * seconds, look=look, look_seconds=_WATCH_SECONDS
            ),
            limit,
        ),
    )
    text = run.answer.text
    if not text.startswith(probe.expected):
        raise _failed(
            manifest,
            f"about its picture: expected an answer that begins {_shown(probe.expected)}, "
            f"found {_shown(text)}",
        )
    return text, run.memory_bytes, run.seconds


def _prove_adapters(
    bundle: Path, manifest: Manifest, interpreter: str, limit: "MemoryLimit", seconds: float
) -> tuple[int, float]:
    """Have the bundle answer with each of its adapters. Returns the most bytes it held, and seconds."""
    probes = [(adapter, adapter.probe or _ANY_ANSWER) for adapter in manifest.adapters]
    if not probes:
        return 0, 0.0
    question = AdapterQuestions(
        str(bundle.absolute()),
        tuple(AdapterProbe(adapter.name, probe.prompt, probe.max_tokens) for adapter, probe in probes),
    )
    run = _answered(
        manifest,
        limit,
        lambda: _watched(
            lambda: Asked(question, interpreter=interpreter, own_session=True),
            lambda asked, look: asked.answer(
                AdapterAnswers, seconds=seconds * len(probes), look=look, look_seconds=_WATCH_SECONDS
            ),
            limit,
        ),
    )
    for (adapter, probe), text in zip(probes, run.answer.texts, strict=True):
        if not text.startswith(probe.expected):
            raise _failed(
                manifest,
                f"adapter {adapter.name}: expected an answer that begins {_shown(probe.expected)}, "
                f"found {_shown(text)}",
            )
    return run.memory_bytes, run.seconds


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
class _Run(Generic[Answer]):
    """What the runner answered; the most memory that it was seen to hold, and how long it ran."""

    answer: Answer
    memory_bytes: int
    seconds: float


class _TooMuchMemoryError(Exception):
    """The runner takes more than it may."""


def _answered(manifest: Manifest, limit: MemoryLimit, run: Callable[[], _Run[Answer]]) -> _Run[Answer]:
    """What a run comes to. Raises ProbeFailedError when it comes to no answer."""
    try:
        return run()
    except _TooMuchMemoryError:
        raise _failed(
            manifest, f"expected at most {limit.size / 1e6:,.0f} MB of memory, {limit.reason}, found more"
        ) from None
    except NoAnswerError as cause:
        by_kernel = ", most likely because memory ran out" if cause.code == -signal.SIGKILL else ""
        raise _failed(manifest, f"its process {cause.how}{by_kernel}") from None
    except EdgephiError as error:
        raise _failed(manifest, error.message) from None


def _run(question: FirstQuestion, interpreter: str, limit: MemoryLimit, seconds: float) -> _Run[FirstAnswer]:
    """Have the runner answer, within limits. Raises NoAnswerError, its own error or _TooMuchMemoryError."""
    try:
        return _watched(
            lambda: Asked(question, interpreter=interpreter, own_session=True),
            lambda asked, look: asked.answer(
                FirstAnswer, seconds=seconds, look=look, look_seconds=_WATCH_SECONDS
            ),
            limit,
        )
    except NoAnswerError as cause:
        ended_by_itself = cause.code is not None and cause.code >= 0
        if cause.is_understood or not ended_by_itself:
            raise
    return _watched(
        lambda: AskedByCommand(question, interpreter=interpreter),
        lambda asked, look: asked.answer(
            FirstAnswer, seconds=seconds, look=look, look_seconds=_WATCH_SECONDS
        ),
        limit,
    )


def _watched(
    start: Callable[[], Process], wait: Callable[[Process, Look], Answer], limit: MemoryLimit
) -> _Run[Answer]:
    """Start a process and wait for its answer, looking at its memory. Raises what waiting raises."""
    begin, peak = time.monotonic(), 0
    with limited_memory(limit.size) as group, start() as asked:
        pid = asked.process.pid

        def look() -> None:
            nonlocal peak
            peak = max(peak, _resident_bytes(pid))
            if peak > limit.size:
                raise _TooMuchMemoryError

        if group is not None:
            group.take(pid)
        _offer_to_the_kernel(pid)
        try:
            answer = wait(asked, look)
        except (NoAnswerError, EdgephiError):
            if group is not None and group.has_killed:
                raise _TooMuchMemoryError from None
            raise
        if group is not None and group.has_killed:
            raise _TooMuchMemoryError
    return _Run(answer, peak, time.monotonic() - begin)


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
