"""Answers asked for again, questions changed, the temperature, and the conversation as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

import edgephi.runtime
from edgephi.cli.terminal.saved_chat import read_messages
from tests.server.page.browser import TELEPHONE, Page, requests_in
from tests.server.page.conftest import ANSWER, QUESTION
from tests.server.serving import until

TIMER = "set a timer for ten minutes"
TEN_MINUTES = '{"action": "set_timer", "duration": "10 minutes"}'


def asked(page: Page) -> list[dict[str, Any]]:
    """The bodies of the questions that went to the server since the last look."""
    requests = requests_in(page.events())
    return [json.loads(each["postData"]) for each in requests if each["url"].endswith("/chat/completions")]


def until_answered(page: Page) -> None:
    until(lambda: page.one("#send").is_displayed() and page.answer, "the answer")


def set_temperature(page: Page, value: float) -> None:
    """Move the slider as a person does with the keyboard."""
    if not page.one("#temperature").is_displayed():
        page.one("summary").click()
    for _ in range(round(value * 10)):
        page.one("#temperature").send_keys(Keys.ARROW_RIGHT)


class TestRetry:
    def test_the_last_answer_is_asked_for_again_in_its_place(self, page: Page) -> None:
        page.ask(QUESTION)
        page.ask(TIMER)
        page.events()
        page.all(".retry")[-1].click()
        until_answered(page)
        (request,) = asked(page)
        assert [message["content"] for message in request["messages"]] == [QUESTION, ANSWER, TIMER]
        assert len(page.all(".turn")) == 2
        assert page.answer == TEN_MINUTES
        assert page.focused == "question"

    def test_only_the_last_one_has_the_button(self, page: Page) -> None:
        page.ask(QUESTION)
        page.ask(TIMER)
        assert [button.is_displayed() for button in page.all(".retry")] == [False, True]

    def test_none_while_an_answer_comes(self, slow_page: Page) -> None:
        slow_page.ask(QUESTION, wait=False)
        until(lambda: slow_page.answer, "the first piece of an answer")
        hidden = [slow_page.one(name).is_displayed() for name in (".retry", ".edit")]
        slow_page.press(Keys.ESCAPE)
        slow_page.until_state("Ready")
        assert hidden == [False, False]
        assert slow_page.one(".retry").is_displayed()  # and a stopped one can be asked for again
        assert slow_page.one(".edit").is_displayed()


class TestEdit:
    def test_a_changed_question_is_asked_and_what_came_after_is_forgotten(self, page: Page) -> None:
        page.ask("good night")
        page.ask(QUESTION)
        page.ask(TIMER)
        page.events()
        page.all(".edit")[1].click()
        field = page.driver.switch_to.active_element
        assert (field.get_attribute("aria-label"), field.get_attribute("value")) == (
            "Edited question",
            QUESTION,
        )
        field.clear()
        field.send_keys(TIMER, Keys.ENTER)
        until(lambda: len(page.all(".turn")) == 2, "the turns that are left")
        until_answered(page)
        (request,) = asked(page)
        contents = [message["content"] for message in request["messages"]]
        assert (contents[0], contents[2]) == ("good night", TIMER)
        assert page.answer == TEN_MINUTES
        assert page.text(".question > .text") == TIMER
        assert page.focused == "question"

    @pytest.mark.parametrize("way", ["button", "escape"])
    def test_it_can_be_given_up(self, page: Page, way: str) -> None:
        page.ask(QUESTION)
        page.one(".edit").click()
        page.press(" and the bedroom")
        if way == "button":
            page.one(".cancel").click()
        else:
            page.press(Keys.ESCAPE)
        assert page.text(".question > .text") == QUESTION
        assert page.one(".question > .text").is_displayed()
        assert not page.one(".editing").is_displayed()
        assert page.run("return document.activeElement.classList.contains('edit')")
        assert page.answer == ANSWER

    def test_lines_and_nothing(self, page: Page) -> None:
        page.ask(QUESTION)
        page.events()
        page.one(".edit").click()
        page.press(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE, Keys.ENTER)  # nothing is no question
        page.press("good", Keys.SHIFT, Keys.ENTER, Keys.NULL, "night", Keys.ENTER)
        until_answered(page)
        (request,) = asked(page)
        assert request["messages"] == [{"role": "user", "content": "good\nnight"}]

    def test_a_question_that_failed_can_be_changed(self, page: Page) -> None:
        page.run("arguments[0].value = 'light '.repeat(600)", page.one("#question"))
        page.ask(".")
        assert page.text(".error .problem") == "The conversation is too long for the model."
        page.one(".edit").click()
        page.press(Keys.CONTROL, "a", Keys.NULL, QUESTION, Keys.ENTER)
        until_answered(page)
        assert page.answer == ANSWER
        assert page.all(".error:not([hidden])") == []


class TestTemperature:
    def test_it_goes_with_each_question_from_then_on(self, page: Page) -> None:
        page.ask(QUESTION)
        set_temperature(page, 1.5)
        assert page.text("#temperature-text") == "1.5"
        assert page.text("#settings-preview").startswith("temperature 1.5, ")
        page.one(".retry").click()
        until(lambda: page.one("#send").is_displayed(), "the answer")
        assert [request["temperature"] for request in asked(page)] == [0, 1.5]

    def test_the_settings_fit_on_a_telephone(self, page: Page) -> None:
        page.look(TELEPHONE)
        page.one("summary").click()
        page.ask(QUESTION)
        page.one(".edit").click()
        assert page.run("return document.documentElement.scrollWidth") == TELEPHONE[0]
        page.one(".cancel").click()
        page.one("#export").click()
        box = page.one("#export-dialog").rect
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= TELEPHONE[0]
        page.press(Keys.ESCAPE)


class TestExport:
    @pytest.fixture
    def downloads(self, page: Page, tmp_path: Path) -> Path:
        settings = {"behavior": "allow", "downloadPath": str(tmp_path)}
        page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", settings)
        return tmp_path

    def exported(self, page: Page, downloads: Path, kind: str) -> Path:
        page.one("#export").click()
        page.one(f"[data-kind={kind}]").click()
        file = downloads / f"conversation.{kind}"
        until(file.is_file, "the file")
        assert not page.one("#export-dialog").is_displayed()
        return file

    def test_json_goes_on_in_the_terminal(self, page: Page, downloads: Path, demo_bundle: Path) -> None:
        page.one("summary").click()
        page.one("#system").send_keys("You control a home.")
        page.ask(QUESTION)
        file = self.exported(page, downloads, "json")
        assert json.loads(file.read_text(encoding="utf-8"))["model"] == "demo-cpu"
        messages = read_messages(file)
        assert [message["role"] for message in messages] == ["system", "user", "assistant"]
        assert [message["content"] for message in messages] == ["You control a home.", QUESTION, ANSWER]
        talk = edgephi.runtime.load(demo_bundle).chat()
        talk.resume(messages)
        assert "".join(talk.say(TIMER)) == TEN_MINUTES

    def test_markdown_is_that_of_the_terminal(self, page: Page, downloads: Path) -> None:
        page.ask(QUESTION)
        text = self.exported(page, downloads, "md").read_text(encoding="utf-8")
        assert text == f"## User\n\n{QUESTION}\n\n## Assistant\n\n{ANSWER}\n"

    def test_there_must_be_a_conversation(self, page: Page) -> None:
        assert not page.one("#export").is_enabled()
        page.ask(QUESTION)
        assert page.one("#export").is_enabled()
        page.one("#new-chat").click()
        assert not page.one("#export").is_enabled()
