"""Plain-text tables with aligned columns."""

from collections.abc import Sequence

from edgephi.cli.show.lines.columns import columns_of
from edgephi.guards.visible import visible


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = (), *, right: Sequence[int] = ()) -> str:
    """Lines of `rows` below `header`, two spaces between columns; the columns `right` align to the right.

    Every row has as many cells as the header, when there is one. No line ends in spaces or a line break.
    Each cell is one line, whatever stands in it.
    """
    lines = [[visible(cell) for cell in line] for line in (*([header] if header else []), *rows)]
    widths = [max(columns_of(cell) for cell in column) for column in zip(*lines, strict=True)]

    def align(column: int, cell: str) -> str:
        space = " " * (widths[column] - columns_of(cell))
        return space + cell if column in right else cell + space

    return "\n".join("  ".join(align(i, cell) for i, cell in enumerate(line)).rstrip() for line in lines)
