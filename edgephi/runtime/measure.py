"""The bench of one bundle: how fast its engine loads it, reads prompts and writes answers here.

`measure` starts a process of its own for it (`python -m edgephi.runtime.measure BUNDLE`, the request as JSON
on standard input), so that memory and load time are that bundle's alone. The process writes lines of JSON to
standard output: `{"done": tokens}` on its way, `{"measurement": …}` at the end. An error leaves its message
and its hint on two lines of standard error, and ends with the error's exit code.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import edgephi.runtime
from edgephi.errors import (
    BadInputError,
    CannotServeError,
    DoesNotFitError,
    EdgephiError,
    from_os_error,
)
from edgephi.manifest import Manifest, read_manifest
from edgephi.measurement import BenchRequest, Measurement, Speed
from edgephi.records import read_record, write_record
from edgephi.runtime.accelerators import find_accelerators
from edgephi.runtime.session import Session

DEFAULT_PROMPT_LENGTHS = (32, 128, 512)

_STRIDE = 5  # tokens from the start of one prompt to that of the next
_WARM_UP_PROMPT, _WARM_UP_ANSWER = 8, 4
# A model that stops early is given another prompt for the rest of its tokens, but not for ever.
_MOST_ANSWERS = 4
# What is read does not matter for speed, but a text that goes on makes an answer that ends early unlikely.
_TEXT = (
    "The workshop at the end of the lane opens early. On the left there is a long bench with drills, files "
    "and a vice, then a shelf of paint tins, a heap of planed boards and an old radio that only plays in the "
    "afternoon. Every morning the carpenter sweeps the floor, puts the kettle on, and reads the list of what "
    "is to be done: a window frame, two chairs, a garden gate, a box with a sliding lid, and then "
)


def measure(bundle: Path, request: BenchRequest, *, done: Callable[[int], None] | None = None) -> Measurement:
    """Measure the bundle in a folder once, in a fresh process.

    `done` is told the number of tokens read and generated since it was last told. Raises EdgephiError: what
    the bundle's process failed with.
    """
    # -P: a module of the user's working directory must not stand in for one of ours.
    command = [sys.executable, "-P", "-m", "edgephi.runtime.measure", str(bundle)]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile() as said,  # a pipe that nobody reads could fill up
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=said, text=True) as process,
    ):
        assert process.stdin is not None and process.stdout is not None  # noqa: S101 - for the type checker
        try:
            with contextlib.suppress(BrokenPipeError):  # why it ended at once, it has said elsewhere
                process.stdin.write(json.dumps(write_record(request)))
                process.stdin.close()
            answer = None
            for line in process.stdout:
                message = _message(line)
                answer = message.get("measurement", answer)
                if done is not None:
                    done(message.get("done", 0))
        except BaseException:
            process.kill()
            raise
        code = process.wait()
        if code != 0 or answer is None:
            said.seek(0)
            _fail(bundle, code, said.read().decode(errors="replace"))
    return read_record(
        Measurement, answer, where="the bench's process", error=BadInputError, hint="please report this"
    )


def check_lengths(manifest: Manifest, request: BenchRequest) -> None:
    """Raise DoesNotFitError when the longest prompt and its answer are past the context."""
    context = request.context or manifest.limits.context
    if request.longest > context:
        raise DoesNotFitError(
            f"{manifest.name}: a prompt of {max(request.prompt_lengths)} tokens and "
            f"{request.generated_tokens} new ones need a context of {request.longest}, found {context}",
            hint="ask for shorter ones: --prompt-tokens, --generate",
        )


def fitting_lengths(context: int, generated_tokens: int) -> tuple[int, ...]:
    """The default prompt lengths that leave room for an answer in `context` tokens; one at least."""
    fitting = tuple(length for length in DEFAULT_PROMPT_LENGTHS if length + generated_tokens <= context)
    return fitting or (max(1, context - generated_tokens),)


def run(bundle: Path, request: BenchRequest, done: Callable[[int], None]) -> Measurement:
    """Measure a bundle in this process."""
    manifest = read_manifest(bundle)
    check_lengths(manifest, request)
    context = request.context or min(
        manifest.limits.context, max(request.longest, _WARM_UP_PROMPT + _WARM_UP_ANSWER)
    )
    free_before = _gpu_free_bytes()
    session = edgephi.runtime.load(
        bundle, context=context, provider=request.provider, warn=lambda _text: None
    )
    prompt = _endless(session.engine.encode(_TEXT))
    speeds = []
    warm_up = min(_WARM_UP_PROMPT, context - _WARM_UP_ANSWER)
    if warm_up > 0:
        _answer(session, prompt(0, warm_up), _WARM_UP_ANSWER)
    for i, length in enumerate(request.prompt_lengths):
        prompts = [prompt(1 + i * _MOST_ANSWERS + again, length) for again in range(_MOST_ANSWERS)]
        speeds.append(_speed(session, prompts, request.generated_tokens))
        done(length + request.generated_tokens)
    provider = session.engine.provider
    on_gpu = free_before is not None and provider != "cpu"
    return Measurement(
        engine=session.engine.name,
        version=session.engine.version,
        provider=provider,
        context=session.context,
        load_seconds=session.load_seconds,
        peak_memory_bytes=peak_memory_bytes(),
        gpu_memory_bytes=max(0, (free_before or 0) - (_gpu_free_bytes() or 0)) if on_gpu else None,
        speeds=tuple(speeds),
    )


def peak_memory_bytes() -> int:
    """The most memory that this process has held at once."""
    try:
        status = Path("/proc/self/status").read_text()
        (mark,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(mark.split()[1]) << 10
    except (OSError, ValueError):
        # Not first: on Linux it counts what the process that started this one held as well.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10


def _speed(session: Session, prompts: Sequence[list[int]], tokens: int) -> Speed:
    """Answer the first prompt, and as many of the others of its length as it takes to get `tokens` tokens."""
    start = time.perf_counter()
    first, last, count = _answer(session, prompts[0], tokens)
    first_token_seconds = first - start
    steps, seconds = count - 1, last - first
    for prompt in prompts[1:]:
        if steps >= tokens - 1:
            break
        first, last, count = _answer(session, prompt, tokens - steps)
        steps += count - 1
        seconds += last - first
    length = len(prompts[0])
    return Speed(
        prompt_tokens=length,
        generated_tokens=steps + 1,
        first_token_seconds=first_token_seconds,
        prefill_tokens_per_second=length / first_token_seconds,
        decode_tokens_per_second=steps / seconds if steps else 0.0,
        peak_memory_bytes=peak_memory_bytes(),
    )


def _answer(session: Session, prompt: list[int], tokens: int) -> tuple[float, float, int]:
    """When the first and the last token of a greedy answer came, and how many came, the first included."""
    times = [
        time.perf_counter()
        for _ in session.engine.generate(
            prompt, length=len(prompt) + tokens, temperature=0.0, top_p=1.0, top_k=0, seed=None
        )
    ] or [time.perf_counter()]  # it stopped at once, and kept the stop token to itself
    return times[0], times[-1], len(times)


def _endless(token_ids: Sequence[int]) -> Callable[[int, int], list[int]]:
    """Cuts prompts out of a text that is repeated for ever: (which, length) -> token ids.

    Each begins at another token: an engine that keeps the cache of one prompt cannot use it for the next.
    """

    def prompt(which: int, length: int) -> list[int]:
        start = which * _STRIDE
        return [token_ids[(start + i) % len(token_ids)] for i in range(length)]

    return prompt


def _gpu_free_bytes() -> int | None:
    """Free memory of all GPUs that have their own; None without one."""
    free = [gpu.free_bytes for gpu in find_accelerators() if gpu.free_bytes is not None]
    return sum(free) if free else None


def _message(line: str) -> dict[str, Any]:
    """A line of the process as a message; empty for what libraries print."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _fail(bundle: Path, code: int, said: str) -> NoReturn:
    """Raise what the bundle's process ended with."""
    if code < 0:
        raise DoesNotFitError(
            f"{bundle}: the engine was killed by signal {-code} while it was measured",
            hint="stop other programs, or measure shorter prompts",
        )
    # Libraries may have written more before.
    *_, message, hint = ["", "", *said.strip().splitlines()]
    kinds: dict[int, type[EdgephiError]] = {3: CannotServeError, 4: BadInputError}
    if code not in kinds:
        raise EdgephiError(f"bug in edgephi: the engine's process failed: {hint}", hint="please report this")
    raise kinds[code](message, hint=hint)


def _main() -> int:
    parent = os.getppid()

    def done(tokens: int) -> None:
        if os.getppid() != parent:  # it was killed: nobody waits for this
            sys.exit(1)
        print(json.dumps({"done": tokens}), flush=True)  # noqa: T201

    try:
        request = read_record(
            BenchRequest,
            json.load(sys.stdin),
            where="the request",
            error=BadInputError,
            hint="please report this",
        )
        measurement = run(Path(sys.argv[1]), request, done)
    except EdgephiError as caught:
        error = caught
    except OSError as cause:
        error = from_os_error(cause, place=sys.argv[1])
    except MemoryError:
        error = DoesNotFitError("the engine ran out of memory", hint="stop other programs")
    else:
        print(json.dumps({"measurement": write_record(measurement)}), flush=True)  # noqa: T201
        return 0
    print(error.message, error.hint, sep="\n", file=sys.stderr)  # noqa: T201
    return error.exit_code


if __name__ == "__main__":
    sys.exit(_main())
