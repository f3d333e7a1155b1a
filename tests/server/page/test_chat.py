"""What one can do on the chat page, in a real browser and on a real server with the demo bundle."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from selenium.webdriver.common.keys import Keys

from tests.server.page.browser import Page, requests_in
from tests.server.page.conftest import ANSWER, KEY, QUESTION
from tests.server.serving import Server, serving, slowly, until


def test_a_question_is_answered_with_its_numbers(page: Page) -> None:
    page.ask(QUESTION)
    assert page.answer == ANSWER
    speed, first, tokens, prompt = page.numbers
    assert re.fullmatch(r"[\d,.]+ tokens/s", speed)
    assert re.fullmatch(r"first token [\d.]+ m?s", first)
    generated, read = int(tokens.split()[0]), int(prompt.split()[1].strip(","))
    assert generated > 5
    assert page.text("#context-text") == f"{generated + read} of 512 tokens"
    assert float(page.run("return document.querySelector('#meter').value")) == (generated + read) / 512
    assert page.text("#model") == "demo-cpu"


def test_the_model_reads_the_conversation_and_the_system_message(page: Page) -> None:
    page.one("summary").click()
    page.one("#system").send_keys("You control a home.")
    page.ask(QUESTION)
    page.ask("what about the bedroom")
    first, second = [
        json.loads(request["postData"])["messages"]
        for request in requests_in(page.events())
        if request["url"].endswith("/v1/chat/completions")
    ]
    system = {"role": "system", "content": "You control a home."}
    user = {"role": "user", "content": QUESTION}
    assert first == [system, user]
    assert second == [
        system,
        user,
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": "what about the bedroom"},
    ]


def test_a_new_chat_forgets_the_old_one(page: Page) -> None:
    page.ask(QUESTION)
    page.one("#new-chat").click()
    assert page.all(".turn") == []
    assert page.one("#welcome").is_displayed()
    page.events()
    page.ask("good night")
    (request,) = requests_in(page.events())
    assert [message["content"] for message in json.loads(request["postData"])["messages"]] == ["good night"]


@pytest.mark.parametrize("way", ["button", "escape"])
def test_stop_ends_the_generation(slow_server: Server, slow_page: Page, way: str) -> None:
    slow_page.ask(QUESTION, wait=False)
    until(lambda: slow_page.answer, "the first piece of an answer")
    if way == "button":
        slow_page.one("#stop").click()
    else:
        slow_page.press(Keys.ESCAPE)
    until(lambda: slow_page.one("#send").is_displayed(), "the end")
    assert slow_page.numbers[0] == "Stopped"
    assert ANSWER.startswith(slow_page.answer)
    assert len(slow_page.answer) < len(ANSWER)
    assert slow_page.focused == "question"
    # The engine is free again: with a queue of nobody, anything else would be refused.
    until(lambda: slow_server.chat(max_tokens=1).status_code == 200, "the end of the generation")


def test_numbers_and_state_are_shown_while_the_answer_comes(slow_page: Page) -> None:
    slow_page.ask(QUESTION, wait=False)
    until(lambda: len(slow_page.numbers) == 3, "numbers while the answer comes")
    assert slow_page.text("#state") == "Answering"
    assert slow_page.one("#stop").is_displayed()
    assert slow_page.text("#context-text").startswith("about ")
    assert slow_page.one(".answer").get_attribute("aria-busy") == "true"
    assert not slow_page.one(".answer > .below .copy").is_displayed()
    slow_page.press(Keys.ESCAPE)
    until(lambda: slow_page.text("#state") == "Ready", "ready")
    assert slow_page.one(".answer").get_attribute("aria-busy") == "false"


def test_the_way_through_a_long_question_is_shown(slow_page: Page) -> None:
    slow_page.run("arguments[0].value = 'light '.repeat(300)", slow_page.one("#question"))
    slow_page.ask(".", wait=False)
    way = r"Reading, (\d+) of (\d+) tokens(, \d+ s)?"
    seen: set[str] = set()

    def read_twice() -> bool:
        shown = re.fullmatch(way, slow_page.text(".said"))
        if shown and int(shown[1]) < int(shown[2]):
            seen.add(shown[1])
        return len(seen) == 2

    until(read_twice, "two pieces of the question")
    slow_page.press(Keys.ESCAPE)
    slow_page.until_state("Ready")
    assert slow_page.numbers == ["Stopped"]


def test_a_busy_server_is_asked_again_when_it_says(slow_server: Server, slow_page: Page) -> None:
    with httpx2.stream(
        "POST",
        f"{slow_server.url}/v1/chat/completions",
        json={"messages": [{"role": "user", "content": QUESTION}], "stream": True},
        timeout=60,
    ) as other:
        assert other.status_code == 200
        slow_page.ask(QUESTION, wait=False)
        busy = r"The server is busy with other requests\. Trying again in \d+ s\."
        until(lambda: re.fullmatch(busy, slow_page.text(".said")), "the news that the server is busy")
        until(lambda: "is busy" in slow_page.text("#announcement"), "the announcement")
    until(lambda: slow_page.one("#send").is_displayed(), "the answer after all")
    assert slow_page.answer == ANSWER
    asked = [event["response"]["status"] for event in slow_page.events() if is_answer(event)]
    assert set(asked[:-1]) == {429}
    assert asked[-1] == 200


def is_answer(event: dict[str, Any]) -> bool:
    """Whether the browser got the start of a response to a question."""
    url = str(event.get("response", {}).get("url", ""))
    return event["method"] == "Network.responseReceived" and url.endswith("/v1/chat/completions")


def test_waiting_for_a_busy_server_can_be_stopped(slow_server: Server, slow_page: Page) -> None:
    def occupy() -> None:
        slow_server.chat(max_tokens=12)

    other = threading.Thread(target=occupy)
    other.start()
    time.sleep(0.3)
    slow_page.ask(QUESTION, wait=False)
    until(lambda: "is busy" in slow_page.text(".said"), "the news that the server is busy")
    slow_page.press(Keys.ESCAPE)
    until(lambda: slow_page.one("#send").is_displayed(), "the end")
    assert slow_page.numbers == ["Stopped"]
    other.join()


def test_a_key_is_asked_for_and_kept_for_this_tab(
    locked_server: Server, open_page: Callable[[Server], Page]
) -> None:
    page = open_page(locked_server)
    until(lambda: page.one("#key-dialog").is_displayed(), "the question for the key")
    assert page.focused == "key"
    page.press("not-the-key", Keys.ENTER)
    until(lambda: "did not accept" in page.text("#key-problem"), "the news that it is the wrong key")
    page.press("ключ", Keys.ENTER)
    assert "only letters" in page.text("#key-problem")
    page.one("#key").clear()
    page.one("#key").send_keys(KEY, Keys.ENTER)
    page.until_state("Ready")
    assert not page.one("#key-dialog").is_displayed()
    page.ask(QUESTION)
    assert page.answer == ANSWER

    page.driver.refresh()
    page.until_state("Ready")
    kept = "return [JSON.stringify({...sessionStorage}), JSON.stringify({...localStorage}), document.cookie]"
    assert page.run(kept) == [json.dumps({"edgephi-api-key": KEY}, separators=(",", ":")), "{}", ""]


def test_without_a_key_the_page_says_so(locked_server: Server, open_page: Callable[[Server], Page]) -> None:
    page = open_page(locked_server)
    until(lambda: page.one("#key-dialog").is_displayed(), "the question for the key")
    page.press(Keys.ESCAPE)
    page.until_state("The server wants an API key.")
    page.ask(QUESTION, wait=False)
    until(lambda: page.one("#key-dialog").is_displayed(), "the question for the key")
    page.one("#key").send_keys(KEY, Keys.ENTER)
    until(lambda: page.one("#send").is_displayed(), "the answer")
    assert page.answer == ANSWER


def test_a_question_past_the_context(page: Page) -> None:
    page.run("arguments[0].value = 'light '.repeat(600)", page.one("#question"))
    page.ask(".")
    assert page.text(".error .problem") == "The conversation is too long for the model."
    assert "the context is 512 tokens" in page.text(".error .advice")
    button = page.one(".error button")
    assert button.text == "New chat"
    button.click()
    page.ask(QUESTION)
    assert page.answer == ANSWER


def test_a_server_that_goes_away_and_comes_back(
    demo_bundle: Path, tmp_path: Path, open_page: Callable[[Server], Page]
) -> None:
    with serving(demo_bundle, tmp_path, **slowly(0.25)) as server:
        page = open_page(server)
        page.until_state("Ready")
        page.ask(QUESTION, wait=False)
        until(lambda: page.answer, "the first piece of an answer")
        server.process.kill()
        until(lambda: page.one("#send").is_displayed(), "the end")
        assert page.text(".error .problem") == "The answer broke off."
        assert ANSWER.startswith(page.answer)
        page.one(".error button").click()
        until(lambda: page.text(".error .problem") == "The server cannot be reached.", "the news")
        assert page.text("#state") == "Not reached"
    with serving(demo_bundle, tmp_path, "--port", server.port):
        page.one(".error button").click()
        until(lambda: page.answer == ANSWER, "the answer")
        page.until_state("Ready")
        assert not page.one(".error").is_displayed()


def test_an_answer_can_be_copied(page: Page) -> None:
    page.driver.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"], "origin": page.url},
    )
    page.ask(QUESTION)
    page.one(".answer > .below .copy").click()
    until(lambda: page.text(".answer > .below .copy") == "Copied", "the news that it is copied")
    assert page.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0])") == ANSWER
