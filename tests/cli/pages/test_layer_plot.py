"""A plot over layers: every point lies where its number is, and says which it is."""

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgephi.cli.pages.layer_plot import Line, Point, layer_plot

VALUES = st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=40)


def drawn(*lines: Line, share: bool = False) -> ET.Element:
    return ET.fromstring(layer_plot("A plot", lines, unit="%" if share else ""))


def places(drawing: ET.Element) -> dict[str, tuple[float, float]]:
    """Where the point of each label lies."""
    found = {}
    for group in drawing.iter("g"):
        x, y = re.findall(r"[\d.]+", group.get("transform", ""))
        found[group.findtext("title") or ""] = (float(x), float(y))
    return found


def scale(drawing: ET.Element) -> dict[str, float]:
    """How high each number beside the scale stands."""
    return {
        text.text or "": float(text.get("y", "")) - 4
        for text in drawing.iter("text")
        if "value" in text.get("class", "")
    }


def line(*values: float, name: str = "down") -> Line:
    return Line(name, tuple(Point(layer, value, f"{name} {layer}") for layer, value in enumerate(values)))


@given(VALUES)
def test_points_lie_in_the_field_and_in_order(values: list[float]) -> None:
    drawing = drawn(line(*values))
    _, _, width, height = map(float, drawing.get("viewBox", "").split())
    at = [places(drawing)[f"down {layer}"] for layer in range(len(values))]
    assert all(0 < x < width and 0 < y < height for x, y in at)
    assert [x for x, _ in at] == sorted(x for x, _ in at)
    by_value = [y for _, (_, y) in sorted(zip(values, at, strict=True))]
    assert by_value == sorted(by_value, reverse=True), "more is higher up"


@given(VALUES)
def test_the_scale_is_logarithmic_and_reaches_around_all_points(values: list[float]) -> None:
    drawing = drawn(line(*values))
    ticks = {float(number): y for number, y in scale(drawing).items()}
    assert min(ticks) <= min(values) * 1.001
    assert max(ticks) >= max(values) * 0.999
    assert 2 <= len(ticks) <= 10
    (low, bottom), (high, top) = min(ticks.items()), max(ticks.items())
    for layer, value in enumerate(values):
        share = (math.log10(value) - math.log10(low)) / (math.log10(high) - math.log10(low))
        assert places(drawing)[f"down {layer}"][1] == pytest.approx(bottom + share * (top - bottom), abs=0.2)


def test_shares_are_percent() -> None:
    assert set(scale(drawn(line(0.004, 0.006), share=True))) == {"0.2%", "0.5%", "1%"}
    assert set(scale(drawn(line(3e-6, 0.006), share=True))) == {"0.0001%", "0.001%", "0.01%", "0.1%", "1%"}


def test_layers_are_numbered_at_the_points() -> None:
    drawing = drawn(line(*[1.0] * 33))
    numbers = {text.text: text.get("x") for text in drawing.iter("text") if text.get("y") == "234"}
    assert list(numbers) == ["0", "5", "10", "15", "20", "25", "30"]
    assert {number: float(x or 0) for number, x in numbers.items()} == {
        str(layer): pytest.approx(places(drawing)[f"down {layer}"][0], abs=0.1) for layer in range(0, 33, 5)
    }


def test_lines_are_told_apart_without_their_colours() -> None:
    drawing = drawn(*(line(1.0, 2.0, name=name) for name in "abcd"))
    shapes = {group.findtext("title"): group.find("path").get("d") for group in drawing.iter("g")}  # type: ignore[union-attr]
    assert len(set(shapes.values())) == 4
    assert [shapes[f"{name} 0"] for name in "abcd"] == [shapes[f"{name} 1"] for name in "abcd"]


def test_who_cannot_see_it_is_told_the_ends() -> None:
    drawing = drawn(line(1.0, 30.0, 2.0), line(5.0, name="head"))
    assert drawing.get("role") == "img"
    assert drawing.findtext("title") == "A plot"
    assert drawing.findtext("desc") == "down: from 1 in layer 0 to 30 in layer 1; head: 5 in layer 0"


def test_a_plot_of_nothing_is_empty() -> None:
    assert places(drawn(Line("down", ()))) == {}


def test_labels_are_text() -> None:
    hostile = Line("<b>", (Point(0, 1.0, '</title><script>alert("x")</script>'),))
    assert list(places(drawn(hostile))) == ['</title><script>alert("x")</script>']
