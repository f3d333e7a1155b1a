"""The page of a bundle's errors: as text, and in a real browser."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys

from edgephi.bundle.quantisation import Quantisation
from edgephi.cli.pages.quantisation_page import quantisation_page
from tests.bundle.tiny import tiny_manifest
from tests.cli.pages.quantised import LAYERS, WORST, quantised, unweighted
from tests.server.page.browser import DESK, TELEPHONE, Page, requests_in
from tests.server.page.contrast import TEXTS, contrast


def drawings(text: str) -> dict[str, ET.Element]:
    """The plots of a page by their titles."""
    plots = (ET.fromstring(svg) for svg in re.findall(r'<svg viewBox="0 0.*?</svg>', text, re.DOTALL))
    return {plot.findtext("title") or "": plot for plot in plots}


def written(quantisation: Quantisation) -> str:
    return quantisation_page(quantisation, tiny_manifest())


class TestText:
    def test_stands_alone(self) -> None:
        text = written(quantised())
        assert not re.search(r"https?:|url\(|@import|<script|<link|<img|src=", text)

    def test_has_a_line_for_each_kind_of_matrix_in_each_plot(self) -> None:
        plots = drawings(written(quantised()))
        assert list(plots) == ["In the output", "Weighted", "Of the weights"]
        for plot in plots.values():
            assert len(list(plot.iter("g"))) == 4 * LAYERS
            colours = [group.find("path").get("fill") for group in plot.iter("g")]  # type: ignore[union-attr]
            assert len(set(colours)) == 4

    def test_the_worst_sticks_out_where_it_is_worse(self) -> None:
        plots = drawings(written(quantised()))
        described = plots["In the output"].findtext("desc") or ""
        assert "down: from 12 in layer 0 to 6000 in layer 7" in described
        assert "down: from 0.6% in layer 0 to 0.71% in layer 11" in (
            plots["Of the weights"].findtext("desc") or ""
        )
        table = written(quantised()).partition("<tbody>")[2]
        assert [table.index(WORST), table.index("<th")] == [
            table.index("<th") + len('<th scope="row">'),
            table.index("<th"),
        ]

    def test_without_inputs_there_is_one_plot(self) -> None:
        text = written(unweighted(quantised()))
        assert list(drawings(text)) == ["Of the weights"]
        assert "the method looked at no inputs" in text
        assert "<td>-</td>" not in text

    def test_names_are_text(self) -> None:
        hostile = "<script>alert(1)</script>\" onload='x"
        tensors = tuple(replace(tensor, name=hostile, role=hostile) for tensor in quantised().tensors[:2])
        text = quantisation_page(replace(quantised(), tensors=tensors), tiny_manifest(name=hostile))
        assert not re.search(r"<script|\" onload='", text)
        assert "&lt;script&gt;alert(1)" in text


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pages") / "errors.html"
    file.write_text(written(quantised()), encoding="utf-8")
    return file


@pytest.fixture
def page(driver: Chrome, file: Path) -> Page:
    page = Page(driver, file.as_uri())
    page.look(DESK)
    page.events()
    driver.get(page.url)
    return page


class TestInABrowser:
    def test_nothing_is_fetched_and_nothing_is_wrong(self, page: Page) -> None:
        assert [request["url"] for request in requests_in(page.events())] == [page.url]
        assert page.complaints() == []

    def test_whoever_points_at_a_mark_is_told_which_it_is(self, page: Page) -> None:
        """Also a little beside it; and no other mark or line lies above it."""
        found = page.run(
            "const marks = [...document.querySelectorAll('g')];"
            "const mark = marks.find((each) => each.textContent.startsWith(arguments[0]));"
            "const box = mark.lastChild.getBoundingClientRect();"
            "const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];"
            "return [0, 4].map((off) => document.elementFromPoint(x + off, y).closest('g')?.textContent)",
            WORST,
        )
        assert found == [f"{WORST}, int4 g32: 6000"] * 2

    @pytest.mark.parametrize("size", [TELEPHONE, (320, 568)])
    def test_a_telephone_scrolls_sideways_in_the_table_alone(self, page: Page, size: tuple[int, int]) -> None:
        page.look(size)
        assert page.run("return document.documentElement.scrollWidth") == size[0]
        outside = page.run(
            "const width = document.documentElement.clientWidth;"
            "return [...document.querySelectorAll('body *')].filter((e) => !e.closest('.wide'))"
            ".map((e) => [e.getBoundingClientRect(), e.outerHTML.slice(0, 80)])"
            ".filter(([box]) => box.right > width + .5 || box.left < -.5)"
        )
        assert outside == []

    def test_a_plot_alone_is_no_larger_than_three(self, page: Page, file: Path) -> None:
        width = "return document.querySelector('figure').getBoundingClientRect().width"
        one_of_three = page.run(width)
        alone = file.with_name("alone.html")
        alone.write_text(written(unweighted(quantised())), encoding="utf-8")
        page.driver.get(alone.as_uri())
        assert page.run(width) == one_of_three

    def test_the_numbers_beside_a_scale_are_whole(self, page: Page) -> None:
        cut = page.run(
            "return [...document.querySelectorAll('figure svg text')].filter((text) => {"
            "  const [own, all] = [text, text.ownerSVGElement].map((e) => e.getBoundingClientRect());"
            "  return own.left < all.left || own.right > all.right || own.bottom > all.bottom;"
            "}).map((text) => text.textContent)"
        )
        assert cut == []

    def test_the_table_is_read_with_the_keyboard(self, page: Page) -> None:
        page.look(TELEPHONE)
        page.press(Keys.TAB)
        assert (
            page.run("return document.activeElement.getAttribute('aria-label')")
            == "The errors of every matrix"
        )
        page.press(Keys.ARROW_RIGHT * 8)
        assert (
            page.run(
                "const table = document.activeElement;"
                "return new Promise((done) => setTimeout(() => done(table.scrollLeft), 300))"
            )
            > 0
        )

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    def test_texts_and_marks_stand_out(self, page: Page, *, dark: bool) -> None:
        page.look(DESK, dark=dark)
        texts = page.run(TEXTS)
        assert len(texts) > 4 * LAYERS
        assert [each["text"] for each in texts if contrast(each) < 4.5] == []
        marks = page.run(
            "const card = getComputedStyle(document.querySelector('figure')).backgroundColor;"
            "const marks = [...document.querySelectorAll('g > path')];"
            "return [card, ...marks.map((mark) => getComputedStyle(mark).fill)]"
        )
        card, *colours = [[*map(int, re.findall(r"\d+", mark)), 1] for mark in marks]
        assert min(contrast({"colour": colour, "behind": [card]}) for colour in colours) >= 3
        assert (sum(card[:3]) < 3 * 128) == dark
