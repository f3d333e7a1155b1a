"""A plot over the layers of a model: a line for each kind of tensor, on a logarithmic scale."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from edgephi.cli.pages.page import colour_of, escaped

# All lengths are units of the drawing, one to a pixel on a telephone.
_WIDTH, _HEIGHT = 360, 256
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 352, 8, 218  # of the field where the lines are
_MARK = 2.6  # half of a mark's width
_TOUCHED = 7  # how far around a mark its words show
_MOST_LABELS = 8

# Around (0, 0), one unit to each side; told apart without their colours.
_SHAPES = (
    "M-1 0A1 1 0 1 0 1 0A1 1 0 1 0-1 0Z",
    "M-.9-.9H.9V.9H-.9Z",
    "M0-1.3L1.3 0L0 1.3L-1.3 0Z",
    "M0-1.2L1.2 .9H-1.2Z",
)


@dataclass(frozen=True)
class Point:
    """A number above 0 of one layer; `label` says which it is to who points at it."""

    layer: int
    value: float
    label: str


@dataclass(frozen=True)
class Line:
    """The numbers of one kind of tensor, in the order of the layers."""

    name: str
    points: tuple[Point, ...]


def layer_plot(title: str, lines: Sequence[Line], *, unit: Literal["", "%"]) -> str:
    """The drawing as SVG; with the unit "%" the points are shares, 1 for all."""

    def shown(value: float) -> str:
        return f"{100 * value:g}%" if unit else f"{value:g}"

    points = [point for line in lines for point in line.points]
    values = [point.value for point in points] or [1.0]
    low, high = math.log10(min(values)), math.log10(max(values))
    ticks = _ticks(low, high)
    low, high = min(low, math.log10(ticks[0])), max(high, math.log10(ticks[-1]))
    last = max([point.layer for point in points], default=0)

    def x(layer: float) -> float:
        return _LEFT + 8 + (_RIGHT - _LEFT - 16) * (layer / last if last else 0.5)

    def y(value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (math.log10(value) - low) / ((high - low) or 1)

    parts = [_scale(ticks, y, shown), _layers(last, x)]
    parts += [
        _path(number, [(x(point.layer), y(point.value)) for point in line.points])
        for number, line in enumerate(lines)
    ]
    # Above all lines, so that none hides another's words.
    parts += [
        _marked(number, x(point.layer), y(point.value), point.label)
        for number, line in enumerate(lines)
        for point in line.points
    ]
    words = "; ".join(_in_words(line, shown) for line in lines if line.points)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">'
        f"<title>{escaped(title)}</title><desc>{escaped(words)}</desc>{''.join(parts)}</svg>"
    )


def mark(number: int) -> str:
    """The mark of the line of that number, for a legend."""
    return (
        f'<svg class="mark" viewBox="-2 -2 4 4" width="12" height="12">'
        f'<path d="{_SHAPES[number % len(_SHAPES)]}" fill="{colour_of(number)}"/></svg>'
    )


def _scale(ticks: Sequence[float], y: Callable[[float], float], shown: Callable[[float], str]) -> str:
    return "".join(
        f'<path class="base" d="M{_LEFT} {y(tick):.1f}H{_RIGHT}"/>'
        f'<text class="label value" x="{_LEFT - 6}" y="{y(tick) + 4:.1f}">{escaped(shown(tick))}</text>'
        for tick in ticks
    )


def _layers(last: int, x: Callable[[float], float]) -> str:
    step = next(step for step in _steps() if last // step < _MOST_LABELS)
    numbers = "".join(
        f'<text class="label" text-anchor="middle" x="{x(layer):.1f}" y="{_BOTTOM + 16}">{layer}</text>'
        for layer in range(0, last + 1, step)
    )
    middle = (_LEFT + _RIGHT) / 2
    return f'{numbers}<text class="label" text-anchor="middle" x="{middle}" y="{_HEIGHT - 6}">layer</text>'


def _path(number: int, places: Sequence[tuple[float, float]]) -> str:
    if len(places) < 2:
        return ""
    way = "L".join(f"{left:.1f} {top:.1f}" for left, top in places)
    return f'<path d="M{way}" fill="none" stroke="{colour_of(number)}" stroke-width="1.25" opacity=".75"/>'


def _marked(number: int, x: float, y: float, label: str) -> str:
    shape = _SHAPES[number % len(_SHAPES)]
    return (
        f'<g transform="translate({x:.1f} {y:.1f})"><title>{escaped(label)}</title>'
        f'<circle r="{_TOUCHED}" fill="transparent"/>'
        f'<path d="{shape}" transform="scale({_MARK})" fill="{colour_of(number)}"/></g>'
    )


def _in_words(line: Line, shown: Callable[[float], str]) -> str:
    """What somebody is told who cannot see the line."""
    least, most = (choose(line.points, key=lambda point: point.value) for choose in (min, max))
    if least.layer == most.layer:
        return f"{line.name}: {shown(most.value)} in layer {most.layer}"
    return (
        f"{line.name}: from {shown(least.value)} in layer {least.layer} to {shown(most.value)} in layer "
        f"{most.layer}"
    )


def _ticks(low: float, high: float) -> list[float]:
    """Numbers for a scale between two decimal logarithms: powers of ten, or finer ones where few are."""
    first, last = math.floor(low), math.ceil(high)
    if last - first > 2:
        step = -(-(last - first) // 5)
        return [10.0**power for power in range(first, last + step, step)]
    fine = [factor * 10.0**power for power in range(first, last + 2) for factor in (1, 2, 5)]
    start = max(place for place, tick in enumerate(fine) if math.log10(tick) <= low or not place)
    stop = next(place for place, tick in enumerate(fine) if place > start and math.log10(tick) >= high)
    return fine[start : stop + 1]


def _steps() -> Iterable[int]:
    power = 1
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10
