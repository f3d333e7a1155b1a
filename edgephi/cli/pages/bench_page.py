"""The page that `edgephi bench --html` writes: what was measured of each bundle, as tables and bars."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import edgephi
from edgephi.cli.pages.page import colour_of, escaped, figure, page, swatch, table
from edgephi.cli.show.machine import machine_line
from edgephi.cli.show.numbers import rate, seconds
from edgephi.cli.show.sizes import human_bytes
from edgephi.machine.host import Host
from edgephi.runtime.adapter import EMULATION_NOTE, is_emulated
from edgephi.runtime.proof.bench import BundleSummary, Range, SpeedSummary

# All lengths are units of the drawing, one to a pixel on a telephone.
_WIDTH = 360
_VALUE_COLUMNS = 64  # right of the longest bar, for the numbers
_BAR, _BAR_STEP = 16, 21
_LABEL_HEIGHT = 20
_GROUP_GAP = 10

_NOTE = """
Medians of {runs}; thin lines reach from the slowest to the fastest run. Each run is a process of its own that
opens one bundle and, after a short prompt to warm up, answers one prompt of each length. Prefill is the
prompt's tokens over the time to the first new one. The limit is what the memory's bandwidth allows if each
token reads all weights and the cache once; there is none for a model that fits into the processor's cache.
Memory is the process's peak.
"""


@dataclass(frozen=True)
class _Bar:
    """One bar of a plot. `colour` is the number of its bundle; `limit` gets a mark of its own."""

    colour: int
    name: str
    value: float
    low: float | None = None
    high: float | None = None
    limit: float | None = None


def bench_page(
    host: Host,
    bytes_per_second: float,
    names: Sequence[str],
    measured: Sequence[BundleSummary],
    *,
    runs: int,
    moment: str,
) -> str:
    """The page as HTML. `names` are the bundles' short names, `moment` is when they were measured."""
    title = f"Bench of {names[0] if len(names) == 1 else f'{len(names)} bundles'}"
    times = "one run" if runs == 1 else f"{runs} runs"
    return page(
        title,
        [machine_line(host, bytes_per_second), f"{host.system}, edgephi {edgephi.__version__}, {moment}"],
        [
            _bundles_table(names, measured),
            *_emulated(names, measured),
            "<h2>Speed and memory</h2>",
            f'<div class="plots">{"".join(_plots(names, measured))}</div>',
            "<h2>All numbers</h2>",
            _numbers_table(names, measured),
            "<h2>How it was measured</h2>",
            f'<p class="quiet">{escaped(_NOTE.format(runs=times).strip())}</p>',
        ],
    )


def _plots(names: Sequence[str], measured: Sequence[BundleSummary]) -> Iterable[str]:
    def by_length(
        number: Callable[[SpeedSummary], Range], *, limit: bool = False
    ) -> list[tuple[str, list[_Bar]]]:
        groups = []
        for speeds in zip(*(each.prompts for each in measured), strict=True):
            bars = []
            for i, speed in enumerate(speeds):
                value = number(speed)
                mark = speed.decode_limit if limit else None
                bars.append(_Bar(i, names[i], value.median, value.low, value.high, mark))
            groups.append((f"prompt of {speeds[0].prompt_tokens} tokens", bars))
        return groups

    loads = [
        _Bar(i, names[i], each.load_seconds.median, each.load_seconds.low, each.load_seconds.high)
        for i, each in enumerate(measured)
    ]
    memory = [("process", [_Bar(i, names[i], each.peak_memory_bytes) for i, each in enumerate(measured)])]
    on_gpu = [
        _Bar(i, names[i], each.gpu_memory_bytes)
        for i, each in enumerate(measured)
        if each.gpu_memory_bytes is not None
    ]
    if on_gpu:
        memory.append(("GPU", on_gpu))
    memory.append(
        ("artifact on disk", [_Bar(i, names[i], each.artifact_bytes) for i, each in enumerate(measured)])
    )
    yield _figure(
        "Decode",
        "tokens per second, more is better; dashed: the limit by memory bandwidth",
        by_length(lambda speed: speed.decode_tokens_per_second, limit=True),
        rate,
        names,
    )
    yield _figure(
        "Prefill",
        "tokens per second, more is better",
        by_length(lambda speed: speed.prefill_tokens_per_second),
        rate,
        names,
    )
    yield _figure(
        "First token",
        "time from the prompt to it, less is better",
        by_length(lambda speed: speed.first_token_seconds),
        seconds,
        names,
    )
    yield _figure("Memory", "peak, less is better", memory, lambda size: human_bytes(round(size)), names)
    yield _figure("Load", "time until the bundle is open, less is better", [("", loads)], seconds, names)


def _figure(
    title: str,
    unit: str,
    groups: Sequence[tuple[str, Sequence[_Bar]]],
    shown: Callable[[float], str],
    names: Sequence[str],
) -> str:
    """A plot with its caption; a legend where colours have to be told apart."""
    legend = [(swatch(i), name) for i, name in enumerate(names)] if len(names) > 1 else []
    return figure(title, unit, _drawing(title, groups, shown), legend)


def _drawing(title: str, groups: Sequence[tuple[str, Sequence[_Bar]]], shown: Callable[[float], str]) -> str:
    """Horizontal bars in groups, one below the other, each with its number."""
    bars = [bar for _, group in groups for bar in group]
    largest = max(max(bar.value, bar.high or 0, bar.limit or 0) for bar in bars) or 1
    scale = (_WIDTH - _VALUE_COLUMNS) / largest
    parts = []
    y = 0
    for label, group in groups:
        top = y
        if label:
            parts.append(f'<text class="label" x="0" y="{y + 13}">{escaped(label)}</text>')
            y += _LABEL_HEIGHT
        for bar in group:
            parts.append(_bar(bar, y, scale, shown))
            y += _BAR_STEP
        base = top + (_LABEL_HEIGHT if label else 0)
        parts.append(f'<path class="base" d="M.5 {base - 2}V{y - 3}"/>')
        y += _GROUP_GAP
    words = "; ".join(
        f"{label + ', ' if label else ''}{bar.name}: {shown(bar.value)}"
        for label, group in groups
        for bar in group
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {y - _GROUP_GAP}" role="img">'
        f"<title>{escaped(title)}</title><desc>{escaped(words)}</desc>{''.join(parts)}</svg>"
    )


def _bar(bar: _Bar, y: int, scale: float, shown: Callable[[float], str]) -> str:
    middle = y + _BAR / 2
    width = max(1.0, bar.value * scale)
    colour = colour_of(bar.colour)
    parts = [f'<rect x="1" y="{y}" width="{width:.1f}" height="{_BAR}" rx="2" fill="{colour}"/>']
    if bar.low is not None and bar.high is not None and bar.high > bar.low:
        parts.append(f'<path class="range" d="M{bar.low * scale:.1f} {middle}H{bar.high * scale:.1f}"/>')
    if bar.limit is not None:
        x = bar.limit * scale
        parts.append(f'<path class="limit" d="M{x:.1f} {y - 1}V{y + _BAR + 1}"/>')
    parts.append(f'<text class="value" x="{_WIDTH}" y="{middle + 4}">{escaped(shown(bar.value))}</text>')
    return "".join(parts)


def _emulated(names: Sequence[str], measured: Sequence[BundleSummary]) -> Iterator[str]:
    """A paragraph for each bundle whose device was emulated."""
    for name, each in zip(names, measured, strict=True):
        if is_emulated(each.provider):
            yield f"<p><strong>{escaped(name)}</strong>: {escaped(EMULATION_NOTE)}</p>"


def _bundles_table(names: Sequence[str], measured: Sequence[BundleSummary]) -> str:
    rows = [
        [
            f"{swatch(i)}{escaped(name)}",
            escaped(f"{each.engine} {each.version} on {each.provider}"),
            escaped(each.model),
            human_bytes(each.artifact_bytes),
            f"{each.bits_per_weight:.2f}",
            seconds(each.load_seconds.median),
            human_bytes(each.peak_memory_bytes),
            "" if each.gpu_memory_bytes is None else human_bytes(each.gpu_memory_bytes),
        ]
        for i, (name, each) in enumerate(zip(names, measured, strict=True))
    ]
    header = ["bundle", "engine", "model", "artifact", "bits per weight", "load", "memory", "GPU memory"]
    if all(each.gpu_memory_bytes is None for each in measured):
        for row in (header, *rows):
            del row[-1]
    return table("What was measured", header, rows, text=(1, 2))


def _numbers_table(names: Sequence[str], measured: Sequence[BundleSummary]) -> str:
    rows = []
    for speeds in zip(*(each.prompts for each in measured), strict=True):
        for i, speed in enumerate(speeds):
            prefill, decode = speed.prefill_tokens_per_second, speed.decode_tokens_per_second
            rows.append(
                [
                    f"{swatch(i)}{escaped(names[i])}",
                    str(speed.prompt_tokens),
                    str(speed.generated_tokens),
                    seconds(speed.first_token_seconds.median),
                    rate(prefill.median),
                    f"{rate(prefill.low)} to {rate(prefill.high)}",
                    rate(decode.median),
                    f"{rate(decode.low)} to {rate(decode.high)}",
                    "" if speed.decode_limit is None else rate(speed.decode_limit),
                    "" if speed.share_of_limit is None else f"{speed.share_of_limit:.0%}",
                ]
            )
    header = ["bundle", "prompt", "generated", "first token", "prefill/s", "range"]
    header += ["decode/s", "range", "limit", "reached"]
    return table("Every prompt length", header, rows, every=len(names) if len(names) > 1 else 0)
