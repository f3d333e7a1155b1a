"""Rows of experts by turns: sources lead there, and come back."""

import pytest

from edgephi.checkpoint.weights.source import Source
from edgephi.export.onnx.expert_rows import by_turns, place_of

EXPERTS, WIDTH = 3, 4
SHAPE = (EXPERTS, 2 * WIDTH, 32)
ROWS = EXPERTS * 2 * WIDTH


def placed(sources: tuple[Source, ...]) -> list[tuple[str, int]]:
    """Which row of which tensor lies in each place."""
    found = {
        place: (source.tensor, row)
        for source in sources
        for row, place in zip(source.rows, source.into, strict=True)
    }
    assert sorted(found) == list(range(ROWS))
    return [found[place] for place in range(ROWS)]


def test_a_gate_and_an_up_for_each_expert_as_published() -> None:
    sources = tuple(
        Source(f"{expert}.{part}", range(WIDTH), range(start, start + WIDTH))
        for expert in range(EXPERTS)
        for start, part in ((2 * WIDTH * expert, "w1"), (2 * WIDTH * expert + WIDTH, "w3"))
    )
    assert placed(by_turns(sources, SHAPE)) == [
        (f"{expert}.{part}", row)
        for expert in range(EXPERTS)
        for row in range(WIDTH)
        for part in ("w1", "w3")
    ]


@pytest.mark.parametrize(
    "sources",
    [
        (Source("all", range(ROWS), range(ROWS)),),
        (Source("even", range(ROWS // 2), range(0, ROWS, 2)), Source("odd", range(12), range(1, ROWS, 2))),
        (Source("begin", range(5, 12), range(7)), Source("end", range(ROWS - 7), range(7, ROWS))),
    ],
)
def test_sources_of_any_form(sources: tuple[Source, ...]) -> None:
    before = placed(sources)
    after = placed(by_turns(sources, SHAPE))
    assert [after[place_of(row, WIDTH)] for row in range(ROWS)] == before
