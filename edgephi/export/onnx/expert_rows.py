"""The order in which `QMoE` wants the rows of experts: those of gate and up by turns, expert by expert.

Ours are all rows of an expert's gate and then all of its up.
"""

from collections.abc import Iterator

from edgephi.checkpoint.weights.source import Source


def by_turns(sources: tuple[Source, ...], shape: tuple[int, ...]) -> tuple[Source, ...]:
    """The sources of a stack [experts, 2 width, columns], leading to the rows that `QMoE` wants."""
    return tuple(part for source in sources for part in _parts(source, shape[1] // 2))


def place_of(row: int, width: int) -> int:
    """Where one of our rows lies."""
    expert, within = divmod(row, 2 * width)
    half, number = divmod(within, width)
    return expert * 2 * width + 2 * number + half


def _parts(source: Source, width: int) -> Iterator[Source]:
    """A source cut where a gate or an up ends."""
    into, rows = source.into, source.rows
    while into:
        end = (into.start // width + 1) * width  # of this gate or up
        count = min(len(into), -(-(end - into.start) // into.step))
        start, step = place_of(into.start, width), 2 * into.step
        yield Source(source.tensor, rows[:count], range(start, start + count * step, step))
        into, rows = into[count:], rows[count:]
