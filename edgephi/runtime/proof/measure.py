"""The bench of one bundle: how fast its engine loads it, reads prompts and writes answers here.

`measure` has a process of its own do it, so that memory and load time are that bundle's alone.
"""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import edgephi.runtime
from edgephi.bundle.manifest import Manifest, read_manifest
from edgephi.errors import DoesNotFitError, from_os_error
from edgephi.machine.accelerators import find_accelerators
from edgephi.machine.measurement import BenchRequest, Measurement, Speed
from edgephi.processes.ask import Done, answer, ask
from edgephi.runtime.adapter import Engine
from edgephi.runtime.images.in_messages import look_at
from edgephi.runtime.proof.image_speed import QUESTION_TOKENS, image_speed

DEFAULT_PROMPT_LENGTHS = (32, 128, 512)

_WARM_UP_PROMPT, _WARM_UP_ANSWER = 8, 4
_TEXT = (
    "The workshop at the end of the lane opens early. On the left there is a long bench with drills, files "
    "and a vice, then a shelf of paint tins, a heap of planed boards and an old radio that only plays in the "
    "afternoon. Every morning the carpenter sweeps the floor, puts the kettle on, and reads the list of what "
    "is to be done: a window frame, two chairs, a garden gate, a box with a sliding lid, and then "
)


@dataclass(frozen=True)
class BenchQuestion:
    """Measure the bundle in a folder; progress is told in tokens read and generated."""

    bundle: str
    request: BenchRequest


def measure(bundle: Path, request: BenchRequest, *, done: Callable[[int], None] | None = None) -> Measurement:
    """Measure the bundle in a folder once, in a fresh process.

    `done` is told the number of tokens read and generated since it was last told. Raises EdgephiError: what
    the bundle's process failed with.
    """
    return ask(
        BenchQuestion(str(bundle), request),
        Measurement,
        who=f"{bundle}: the engine's process, which is measured,",
        hint="stop other programs, or measure shorter prompts",
        done=done,
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
    image = Path(request.image) if request.image else None
    longest = max(request.longest, _WARM_UP_PROMPT + _WARM_UP_ANSWER)
    if image is not None:
        (seen,) = look_at([image], manifest.model.images, request.crops)
        longest = max(longest, seen.tokens + QUESTION_TOKENS)
    context = request.context or min(manifest.limits.context, longest)
    free_before = _gpu_free_bytes()
    session = edgephi.runtime.load(
        bundle, context=context, provider=request.provider, warn=lambda _text: None
    )
    engine = session.engine
    token_ids = engine.encode(_TEXT)
    speeds = []
    warm_up = min(_WARM_UP_PROMPT, context - _WARM_UP_ANSWER)
    if warm_up > 0:
        _answer(engine, _endless(token_ids, warm_up), _WARM_UP_ANSWER)
    for length in request.prompt_lengths:
        speeds.append(_speed(engine, _endless(token_ids, length), request.generated_tokens))
        done(length + request.generated_tokens)
    of_image = None if image is None else image_speed(session, image, request.crops)
    provider = engine.provider
    on_gpu = free_before is not None and provider != "cpu"
    return Measurement(
        engine=engine.name,
        version=engine.version,
        provider=provider,
        context=session.context,
        load_seconds=session.load_seconds,
        peak_memory_bytes=peak_memory_bytes(),
        gpu_memory_bytes=max(0, (free_before or 0) - (_gpu_free_bytes() or 0)) if on_gpu else None,
        speeds=tuple(speeds),
        image=of_image,
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


def _speed(engine: Engine, prompt: list[int], tokens: int) -> Speed:
    """Answer `prompt` with `tokens` tokens."""
    start = time.perf_counter()
    first, last = _answer(engine, prompt, tokens)
    return Speed(
        prompt_tokens=len(prompt),
        generated_tokens=tokens,
        first_token_seconds=first - start,
        prefill_tokens_per_second=len(prompt) / (first - start),
        decode_tokens_per_second=(tokens - 1) / (last - first) if tokens > 1 else 0.0,
        peak_memory_bytes=peak_memory_bytes(),
    )


def _answer(engine: Engine, prompt: list[int], tokens: int) -> tuple[float, float]:
    """When the first and the last token of a greedy answer came. No stop token ends it."""
    cache = engine.open_cache(len(prompt) + tokens)
    pending = prompt
    moments: list[float] = []
    while len(moments) < tokens:
        for _ in cache.append(pending):
            pass
        pending = [cache.next_greedy()]
        moments.append(time.perf_counter())
    cache.close()
    return moments[0], moments[-1]


def _endless(token_ids: Sequence[int], length: int) -> list[int]:
    """The first `length` tokens of a text that is repeated for ever."""
    return [token_ids[i % len(token_ids)] for i in range(length)]


def _gpu_free_bytes() -> int | None:
    """Free memory of all GPUs that have their own; None without one."""
    free = [gpu.free_bytes for gpu in find_accelerators() if gpu.free_bytes is not None]
    return sum(free) if free else None


def _answer_question(question: BenchQuestion, done: Done) -> Measurement:
    try:
        return run(Path(question.bundle), question.request, done)
    except OSError as cause:
        raise from_os_error(cause, place=question.bundle) from None


if __name__ == "__main__":
    answer(BenchQuestion, _answer_question)
