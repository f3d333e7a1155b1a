"""The chat page for everybody: keyboard, telephone, colours, screen reader, no motion."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.server.page.browser import DESK, TELEPHONE, Page, settled
from tests.server.page.conftest import ANSWER, QUESTION
from tests.server.page.contrast import TEXTS, contrast
from tests.server.serving import until


def test_everything_can_be_done_with_the_keyboard(page: Page) -> None:
    start_at_the_top(page)
    page.press(Keys.TAB)
    assert page.run("return document.activeElement.className") == "skip"
    page.press(Keys.ENTER)
    assert page.focused == "question"
    page.press("good", Keys.SHIFT, Keys.ENTER, Keys.NULL, "night")
    assert page.run("return document.activeElement.value") == "good\nnight"
    assert page.all(".turn") == []
    page.press(Keys.ENTER)
    until(lambda: page.one("#send").is_displayed() and page.answer, "the answer")
    assert page.focused == "question"

    start_at_the_top(page)
    reached = []
    for _ in range(12):
        page.press(Keys.TAB)
        if page.run("return document.activeElement === document.body"):
            break
        element = page.driver.switch_to.active_element
        reached.append(element.get_attribute("id") or element.get_attribute("class") or element.tag_name)
        style, width = page.run(
            "const style = getComputedStyle(document.activeElement);"
            "return [style.outlineStyle, style.outlineWidth]"
        )
        assert (style, float(width.removesuffix("px")) >= 2) == ("solid", True), reached
        assert element.is_displayed()
    assert reached[:3] == ["skip", "new-chat", "summary"]
    assert reached[3:6] == ["edit bare", "retry bare", "copy bare"]
    assert reached[6:8] == ["question", "export"]


def start_at_the_top(page: Page) -> None:
    """Have the next Tab go to the first element of the page."""
    body = "const body = document.body; body.tabIndex = -1; body.focus(); body.removeAttribute('tabindex');"
    page.run(body + "window.scrollTo(0, 0)")


@pytest.mark.parametrize("size", [TELEPHONE, (320, 568)])
def test_a_telephone_needs_no_sideways_scrolling(page: Page, size: tuple[int, int]) -> None:
    page.look(size)
    page.ask("W" * 300)
    page.ask(QUESTION)
    page.run("document.querySelector('details').open = true")
    outside = page.run(
        "const width = document.documentElement.clientWidth; return [...document.querySelectorAll('body *')]"
        ".filter((e) => e.checkVisibility() && !e.closest('.unseen, .skip, pre'))"
        ".filter((e) => e.getBoundingClientRect().right > width + .5 || e.getBoundingClientRect().left < -.5)"
        ".map((e) => e.outerHTML.slice(0, 80))"
    )
    assert outside == []
    assert page.run("return document.documentElement.scrollWidth") == size[0]
    assert page.run("return document.querySelector('#question').getBoundingClientRect().bottom") < size[1]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_texts_stand_out_from_what_lies_behind_them(page: Page, *, dark: bool) -> None:
    page.look(DESK, dark=dark)
    back = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", back)[:3])) < 3 * 128) == dark

    def check(*expected: str) -> None:
        texts = settled(lambda: page.run(TEXTS))
        shown = " ".join(each["text"] for each in texts)
        assert all(text in shown for text in expected)
        low = {each["text"]: ratio for each in texts if (ratio := contrast(each)) < 4.5}
        assert low == {}

    check("Ask the model on this device", "Ask something", "New chat", "Ready")
    page.ask(QUESTION)
    page.one("#question").send_keys("x")  # the button to send is ready too
    check(QUESTION, ANSWER, "Copy", "Send")
    page.run("document.querySelector('#question').value = 'light '.repeat(600)")
    page.ask(".")
    page.run("document.querySelector('#key-dialog').showModal()")
    page.run("document.querySelector('#key-problem').textContent = 'No.'")
    check("The conversation is too long for the model.", "API key", "Use this key", "No.")


def test_contrast_is_that_of_wcag() -> None:
    black, white, grey = [0, 0, 0, 1], [255, 255, 255, 1], [119, 119, 119, 1]
    assert contrast({"colour": black, "behind": [white]}) == pytest.approx(21)
    assert contrast({"colour": grey, "behind": [white]}) == pytest.approx(4.48, abs=0.01)
    assert contrast({"colour": [0, 0, 0, 0.5], "behind": [white]}) < 4.5


def test_assistive_technology_finds_names_and_roles(page: Page) -> None:
    page.ask(QUESTION)
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    ]
    for expected in [
        ("banner", ""),
        ("main", ""),
        ("form", "Ask a question"),
        ("heading", "edgephi"),
        ("heading", "Conversation"),
        ("heading", "You"),
        ("heading", "Answer"),
        ("list", "Conversation"),
        ("list", "Numbers of this answer"),
        ("button", "New chat"),
        ("button", "Edit this question"),
        ("button", "Retry the answer"),
        ("button", "Copy the answer"),
        ("button", "Export"),
        ("button", "Send"),
        ("textbox", "Question"),
        ("meter", "Context"),
        ("status", ""),
        ("link", "Skip to the question"),
    ]:
        assert expected in found
    controls = {"button", "textbox", "link", "meter", "list"}
    assert [role for role, name in found if role in controls and not name] == []


def test_axe_finds_nothing(page: Page, node_modules: Path) -> None:
    """The checker that most of the web is checked with, on all that the page can show."""
    axe = (node_modules / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
    rules = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
    page.driver.execute_script(axe)

    def check() -> int:
        result = page.driver.execute_async_script(
            "const [rules, done] = arguments; axe.run({ runOnly: rules }).then(done)", rules
        )
        assert [(each["id"], each["nodes"][0]["html"]) for each in result["violations"]] == []
        return len(result["passes"])

    for dark in (False, True):
        page.look(TELEPHONE if dark else DESK, dark=dark)
        assert check() > 20
        page.one("summary").click()
        page.ask(QUESTION)
        assert check() > 20
        page.one(".edit").click()
        assert check() > 20
        page.press(Keys.ESCAPE)
        page.one("#export").click()
        assert check() > 10  # what lies behind the dialog is not looked at
        page.press(Keys.ESCAPE)
        page.one("summary").click()
        page.one("#new-chat").click()


def test_a_screen_reader_hears_answers_and_no_tokens(slow_page: Page) -> None:
    region = slow_page.one("#announcement")
    assert (region.get_attribute("role"), region.get_attribute("aria-live")) == ("status", "polite")
    slow_page.run(
        "const region = arguments[0]; window.heard = [];"
        "new MutationObserver(() => region.textContent && heard.push(region.textContent))"
        ".observe(region, { childList: true })",
        region,
    )
    slow_page.ask(QUESTION)
    until(lambda: len(slow_page.run("return heard")) > 1, "the announcement")
    assert settled(lambda: slow_page.run("return heard")) == [
        "The model is reading the question.",
        f"Answer: {ANSWER}",
    ]
    live = "[aria-live], [role=status], [role=alert], [role=log]"
    regions = [each.get_attribute("id") for each in slow_page.all(live)]
    assert regions == ["announcement", "key-problem"]


def test_nothing_moves_for_those_who_do_not_want_it(slow_page: Page) -> None:
    moving = "return document.getAnimations().filter((each) => each.playState === 'running').length"
    for still in (False, True):
        slow_page.look(DESK, still=still)
        slow_page.ask(QUESTION, wait=False)
        assert (slow_page.run(moving) > 0) is not still
        slow_page.press(Keys.ESCAPE)
        slow_page.until_state("Ready")
