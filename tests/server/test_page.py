"""The chat page at `/`, in a real browser and on a real server with the demo bundle."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgephi.runtime.server import page as served
from tests.server.serving import Server, serving, slowly, until

pytest.importorskip("selenium")

from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys

from tests.server.chat_page import BROWSER, DESK, DRIVER, TELEPHONE, Page, browsing, requests_in, settled

pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="no chromium and chromedriver (apt install chromium-driver)"
)

QUESTION = "turn on the kitchen light"
ANSWER = '{"action": "turn_on", "room": "kitchen", "device": "light"}'
KEY = "a-key-of-a-test"
CONTRAST = (Path(__file__).parent / "contrast.js").read_text()
# What a model must not be able to do.
MARKUP = '<img src="x" onerror="document.title = \'pwned\'"><script>document.title = "pwned"</script>'


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browsing(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def slow_server(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes its time for each token, and lets nobody wait."""
    folder = tmp_path_factory.mktemp("slow")
    with serving(demo_bundle, folder, "--context", 512, "--queue", 0, **slowly(0.25)) as running:
        yield running


@pytest.fixture(scope="module")
def locked_server(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants a key."""
    folder = tmp_path_factory.mktemp("locked")
    with serving(demo_bundle, folder, "--context", 512, EDGEPHI_API_KEY=KEY) as running:
        yield running


@pytest.fixture
def open_page(driver: Chrome) -> Callable[[Server], Page]:
    """Open the page of a server on a desk's screen, light; what the browser did before is forgotten."""

    def opened(server: Server) -> Page:
        page = Page(driver, server.url)
        page.look(DESK)
        page.open()
        page.events()
        page.complaints()
        return page

    return opened


@pytest.fixture
def page(server: Server, open_page: Callable[[Server], Page]) -> Page:
    """The page of the server that most tests share."""
    opened = open_page(server)
    opened.until_state("Ready")
    return opened


@pytest.fixture
def slow_page(slow_server: Server, open_page: Callable[[Server], Page]) -> Page:
    """The page of the server that takes its time."""
    opened = open_page(slow_server)
    opened.until_state("Ready")
    return opened


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
    with httpx.stream(
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
    assert reached[:4] == ["skip", "new-chat", "summary", "copy"]
    assert reached[4] == "question"


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
        texts = settled(lambda: page.run(CONTRAST))
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


def contrast(text: dict[str, Any]) -> float:
    """The contrast of a text as WCAG 2 defines it, from 1 to 21."""
    colour = [0.0, 0.0, 0.0]
    for *channels, alpha in reversed([text["colour"], *text["behind"]]):
        colour, behind = (
            [over * alpha + under * (1 - alpha) for over, under in zip(channels, colour, strict=True)],
            colour,
        )
    light, dark = sorted((luminance(colour), luminance(behind)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: list[float]) -> float:
    """The relative luminance of red, green and blue, each 0 to 255."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


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
        ("button", "Copy the answer"),
        ("button", "Send"),
        ("textbox", "Question"),
        ("meter", "Context"),
        ("status", ""),
        ("link", "Skip to the question"),
    ]:
        assert expected in found
    controls = {"button", "textbox", "link", "meter", "list"}
    assert [role for role, name in found if role in controls and not name] == []


def test_axe_finds_nothing(page: Page) -> None:
    """The checker that most of the web is checked with, on the page before and after an answer."""
    axe = Path(pytest.importorskip("axe_core_python").__file__).parent / "axe.min.js"
    rules = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
    checked = []
    for dark in (False, True):
        page.look(TELEPHONE if dark else DESK, dark=dark)
        for question in ("", QUESTION):
            if question:
                page.ask(question)
            page.driver.execute_script(axe.read_text())
            result = page.driver.execute_async_script(
                "const [rules, done] = arguments; axe.run({ runOnly: rules }).then(done)", rules
            )
            assert [(each["id"], each["nodes"][0]["html"]) for each in result["violations"]] == []
            checked.append(len(result["passes"]))
    assert min(checked) > 20


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


def test_an_answer_can_be_copied(page: Page) -> None:
    page.driver.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"], "origin": page.url},
    )
    page.ask(QUESTION)
    page.one(".answer > .below .copy").click()
    until(lambda: page.text(".answer > .below .copy") == "Copied", "the news that it is copied")
    assert page.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0])") == ANSWER


def show_text(page: Page, text: str) -> str:
    """Show a text as the model's on the page, and return the elements that it becomes."""
    return str(
        page.driver.execute_async_script(
            "const [text, done] = arguments; const place = document.createElement('div');"
            "document.querySelector('main').append(place);"
            "import('./page/text.js').then(({ showText }) => {"
            "for (let end = 0; end <= text.length; end += 3) showText(place, text.slice(0, end));"
            "showText(place, text); done(place.innerHTML); });",
            text,
        )
    )


def test_what_the_model_writes_is_never_markup(page: Page) -> None:
    for text in (MARKUP, f"```html\n{MARKUP}\n```", f"**{MARKUP}** `{MARKUP}`", f'{{"a": "{MARKUP}"'):
        html = show_text(page, text)
        assert "&lt;img" in html
        assert "<img" not in html
        assert "<script" not in html
    page.ask(MARKUP)
    assert page.text(".question .text") == MARKUP
    assert page.all("main img, main script") == []
    assert page.driver.title == "demo-cpu · edgephi"


def test_fenced_code_and_marks_become_elements(page: Page) -> None:
    html = show_text(page, "So:\n\n```python\nx = 1 < 2\n```\nThen `x` is **true**, 2**3 and 3**2 stay.")
    assert re.findall(r"<(p|figure|strong)\b", html) == ["p", "figure", "p", "strong"]
    assert "<code>x = 1 &lt; 2</code></pre>" in html
    assert "Then <code>x</code> is <strong>true</strong>, 2**3 and 3**2 stay.</p>" in html
    assert "<figure" in show_text(page, "```\nstill open")


def test_the_page_asks_nobody_but_its_server(page: Page) -> None:
    page.driver.refresh()
    page.until_state("Ready")
    page.ask(QUESTION)
    asked = [request["url"] for request in requests_in(page.events())]
    assert f"{page.url}/page/chat.js" in asked
    assert f"{page.url}/v1/chat/completions" in asked
    assert [url for url in asked if not url.startswith(f"{page.url}/")] == []
    assert page.complaints() == []


def test_the_policy_holds(page: Page) -> None:
    """What the page could be tricked into: asking others, running scripts in its text, markup from text."""
    refused = page.driver.execute_async_script(
        "const done = arguments[0]; const refused = [];"
        "document.addEventListener('securitypolicyviolation', (e) => refused.push(e.effectiveDirective));"
        "fetch('http://127.0.0.1:9/').catch(() => {});"
        "const script = document.createElement('script');"
        "try { script.text = 'window.ran = true'; document.head.append(script); } catch { }"
        "try { document.body.innerHTML = 'x'; } catch { }"
        # Not at once: what the driver itself runs may use eval.
        "setTimeout(() => eval('window.ran = true'));"
        "new Image().src = 'http://127.0.0.1:9/x.png';"
        "setTimeout(() => done(refused), 300)"
    )
    assert {"connect-src", "img-src", "require-trusted-types-for"} <= set(refused)
    assert page.run("return window.ran") is None
    assert page.one("header").is_displayed()


def test_the_files_are_served_with_their_headers(server: Server) -> None:
    client = httpx.Client(base_url=server.url)
    for name in sorted(path.name for path in served.FOLDER.iterdir()):
        path = "/" if name == "index.html" else f"/page/{name}"
        found = client.get(path)
        assert found.content == (served.FOLDER / name).read_bytes()
        assert found.headers["content-security-policy"].startswith("default-src 'self'; ")
        assert "unsafe" not in found.headers["content-security-policy"]
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["cache-control"] == "no-cache"
        kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
        assert found.headers["content-type"].partition(";")[0] == kinds[name.rpartition(".")[2]]
        tag = found.headers["etag"]
        for condition in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = client.get(path, headers={"If-None-Match": condition})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == tag
        assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    for path in ("/page/index.html", "/page/%2e%2e/page.py", "/page/", "/page/none.js"):
        assert client.get(path).status_code == 404


def test_the_page_needs_no_key_and_is_small(locked_server: Server) -> None:
    assert locked_server.get("/").status_code == 200
    assert locked_server.get("/page/chat.js").status_code == 200
    assert sum(path.stat().st_size for path in served.FOLDER.iterdir()) < 60_000
    assert locked_server.get("/v1/models").status_code == 401
