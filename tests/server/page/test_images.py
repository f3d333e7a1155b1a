"""Images on the chat page: chosen, taken, pasted, dropped, shown, counted and sent as they are."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from edgephi.bundle.image_tokens import ImageFacts, grid_of, token_count
from edgephi.bundle.manifest import read_manifest
from tests.runtime.images.drawn import drawn, saved
from tests.server.page.browser import TELEPHONE, Page, requests_in
from tests.server.page.conftest import ANSWER, QUESTION
from tests.server.serving import Server, serving, until

WIDE = saved(drawn(200, 60), "PNG")
TALL = saved(drawn(40, 150), "JPEG")
ASKED = "what is it?"


@pytest.fixture
def page(seeing_server: Server, open_page: Callable[[Server], Page]) -> Page:
    """The page of a server whose model sees."""
    opened = open_page(seeing_server)
    opened.until_state("Ready")
    return opened


@pytest.fixture
def facts(vision_bundle: Path) -> ImageFacts:
    found = read_manifest(vision_bundle).model.images
    assert found is not None
    return found


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {"wide.png": WIDE, "tall.jpg": TALL, "notes.png": b"words"}
    for name, data in found.items():
        (tmp_path / name).write_bytes(data)
    return {name: tmp_path / name for name in found}


def choose(page: Page, *paths: Path, how_many: int | None = None) -> None:
    """Choose files in the dialog of the browser."""
    page.one("#files").send_keys("\n".join(map(str, paths)))
    expected = len(paths) if how_many is None else how_many
    until(lambda: len(page.all("#attached li")) == expected, "the thumbnails")


def sent(page: Page) -> list[Any]:
    """The messages of the questions that went to the server since the last look."""
    requests = requests_in(page.events())
    bodies = [json.loads(each["postData"]) for each in requests if each["url"].endswith("/chat/completions")]
    return [body["messages"] for body in bodies]


def images_in(content: Any) -> list[bytes]:
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    return [base64.b64decode(url.partition(";base64,")[2]) for url in urls]


class TestAttached:
    def test_files_are_shown_with_their_tokens_and_sent_as_they_are(
        self, page: Page, files: dict[str, Path], facts: ImageFacts
    ) -> None:
        choose(page, files["wide.png"], files["tall.jpg"])
        tokens = [token_count(grid_of(*size, facts), facts) for size in ((200, 60), (40, 150))]
        shown = [each.text for each in page.all("#attached li span")]
        assert shown == [f"{each} tokens" for each in tokens]
        said = f"Attached: 2 images, {sum(tokens)} tokens."
        until(lambda: page.text("#announcement") == said, "the announcement")
        names = [each.get_attribute("aria-label") for each in page.all("#attached canvas")]
        assert names == ["wide.png, 200 by 60 pixels", "tall.jpg, 40 by 150 pixels"]
        page.events()
        page.ask(ASKED)
        (messages,) = sent(page)
        (message,) = messages
        assert images_in(message["content"]) == [WIDE, TALL]
        assert message["content"][-1] == {"type": "text", "text": ASKED}
        assert page.all(".error:not([hidden])") == []
        assert page.all("#attached li") == []
        assert [each.text for each in page.all(".question .images span")] == shown
        assert any(f"prompt {n}" in " ".join(page.numbers) for n in range(sum(tokens), sum(tokens) + 60))
        assert page.complaints() == []

    def test_they_stay_in_the_conversation(self, page: Page, files: dict[str, Path]) -> None:
        choose(page, files["wide.png"])
        page.ask(ASKED)
        page.events()
        page.ask("and now?")
        ((first, _, second),) = sent(page)
        assert images_in(first["content"]) == [WIDE]
        assert second["content"] == "and now?"
        page.all(".retry")[-1].click()
        until(lambda: page.one("#send").is_displayed(), "the answer")
        page.all(".edit")[0].click()
        page.press(Keys.CONTROL, "a", Keys.NULL, "what else?", Keys.ENTER)
        until(lambda: len(page.all(".turn")) == 1 and page.one("#send").is_displayed(), "the answer")
        again, edited = sent(page)
        assert images_in(again[0]["content"]) == [WIDE]
        assert images_in(edited[0]["content"]) == [WIDE]
        assert edited[0]["content"][-1]["text"] == "what else?"
        assert len(page.all(".question .images canvas")) == 1

    def test_an_image_needs_no_words(self, page: Page, files: dict[str, Path]) -> None:
        assert not page.one("#send").is_enabled()
        choose(page, files["wide.png"])
        assert page.one("#send").is_enabled()
        page.events()
        page.one("#send").click()
        until(lambda: page.one("#send").is_displayed() and page.all(".turn"), "the answer")
        ((message,),) = sent(page)
        assert [part["type"] for part in message["content"]] == ["image_url"]

    @pytest.mark.parametrize("way", ["paste", "drop"])
    def test_they_are_pasted_and_dropped(self, page: Page, way: str) -> None:
        page.run(
            "const [way, text] = arguments;"
            "const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));"
            "const brought = new DataTransfer();"
            "brought.items.add(new File([bytes], 'brought.png', { type: 'image/png' }));"
            "const how = { clipboardData: brought, dataTransfer: brought, bubbles: true, cancelable: true };"
            "const event = way === 'paste' ? new ClipboardEvent(way, how) : new DragEvent(way, how);"
            "document.getElementById('question').dispatchEvent(event);"
            "window.taken = event.defaultPrevented",
            way,
            base64.b64encode(WIDE).decode(),
        )
        until(lambda: len(page.all("#attached li")) == 1, "the thumbnail")
        assert page.run("return window.taken")
        page.events()
        page.ask(ASKED)
        ((message,),) = sent(page)
        assert images_in(message["content"]) == [WIDE]

    def test_words_are_pasted_as_ever(self, page: Page) -> None:
        taken = page.run(
            "const brought = new DataTransfer(); brought.setData('text/plain', 'hello');"
            "const how = { clipboardData: brought, bubbles: true, cancelable: true };"
            "const event = new ClipboardEvent('paste', how);"
            "document.getElementById('question').dispatchEvent(event); return event.defaultPrevented"
        )
        assert not taken

    def test_a_telephone_has_a_button_for_its_camera(self, page: Page) -> None:
        assert page.one("#attach").is_displayed()
        assert not page.one("#camera").is_displayed()
        page.look(TELEPHONE)
        page.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
        try:
            assert page.one("#camera").is_displayed()
            photo = page.one("#photo")
            assert photo.get_attribute("capture") == "environment"
            assert photo.get_attribute("accept") == "image/*"
        finally:
            page.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})

    def test_one_can_be_removed(self, page: Page, files: dict[str, Path]) -> None:
        choose(page, files["wide.png"], files["tall.jpg"])
        page.one("#attached li button").click()
        until(lambda: "wide.png is removed." in page.text("#announcement"), "the news")
        assert page.focused == "question"
        page.events()
        page.ask(ASKED)
        ((message,),) = sent(page)
        assert images_in(message["content"]) == [TALL]

    def test_a_new_chat_forgets_them(self, page: Page, files: dict[str, Path]) -> None:
        page.ask(ASKED)
        choose(page, files["wide.png"])
        page.one("#new-chat").click()
        assert page.all("#attached li") == []
        assert not page.one("#send").is_enabled()


class TestRefused:
    def test_what_is_no_image(self, page: Page, files: dict[str, Path]) -> None:
        choose(page, files["notes.png"], files["wide.png"], how_many=1)
        assert page.text("#attach-note") == "notes.png is no image that this browser can show."
        until(lambda: page.text("#announcement").startswith(page.text("#attach-note")), "the announcement")

    def test_what_is_too_large_is_said_and_not_made_smaller(
        self, vision_bundle: Path, tmp_path: Path, files: dict[str, Path], open_page: Callable[[Server], Page]
    ) -> None:
        most = len(WIDE) * 4 // 3 + 2000
        with serving(vision_bundle, tmp_path, "--context", 512, "--max-images", most) as server:
            page = open_page(server)
            page.until_state("Ready")
            large = tmp_path / "large.png"
            large.write_bytes(WIDE + bytes(3000))
            page.one("#files").send_keys(str(large))
            until(lambda: "this server takes" in page.text("#attach-note"), "the news")
            assert page.all("#attached li") == []
            choose(page, files["wide.png"])
            page.ask(ASKED)
            assert page.all(".error:not([hidden])") == []

    def test_nothing_of_it_where_the_model_reads_text_only(
        self, server: Server, files: dict[str, Path], open_page: Callable[[Server], Page]
    ) -> None:
        page = open_page(server)
        page.until_state("Ready")
        assert not page.one("#attach").is_displayed()
        assert not page.one("#camera").is_displayed()
        page.one("#files").send_keys(str(files["wide.png"]))
        page.ask(QUESTION)
        assert page.answer == ANSWER
        assert page.all("canvas") == []


def test_the_page_counts_tokens_as_the_server_does(page: Page) -> None:
    sizes = [(1, 1), (672, 672), (1344, 336), (336, 1344), (1920, 1080), (8000, 300), (300, 8000), (3000, 7)]
    sizes += [(n * 37 % 4001 + 1, n * n * 11 % 3001 + 1) for n in range(200)]
    for crops in (1, 4, 16):
        facts = ImageFacts(336, 14, crops, 3072, (0.5,) * 3, (0.5,) * 3)
        counted = page.driver.execute_async_script(
            "const [sizes, sight, done] = arguments;"
            "import('./page/image_tokens.js').then(({ imageTokens }) =>"
            " done(sizes.map(([width, height]) => imageTokens(width, height, sight))))",
            sizes,
            {"tile": 336, "patch": 14, "crops": crops},
        )
        assert counted == [token_count(grid_of(*size, facts), facts) for size in sizes]


class TestForEverybody:
    def test_axe_finds_nothing(self, page: Page, files: dict[str, Path], node_modules: Path) -> None:
        rules = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
        page.driver.execute_script((node_modules / "axe-core" / "axe.min.js").read_text(encoding="utf-8"))
        for dark in (False, True):
            page.look(TELEPHONE, dark=dark, still=True)  # colours that change are between two
            choose(page, files["wide.png"], files["tall.jpg"])
            page.ask(ASKED)
            choose(page, files["wide.png"], files["notes.png"], how_many=1)
            result = page.driver.execute_async_script(
                "const [rules, done] = arguments; axe.run({ runOnly: rules }).then(done)", rules
            )
            assert [(each["id"], each["nodes"][0]["html"]) for each in result["violations"]] == []
            assert page.run("return document.documentElement.scrollWidth") == TELEPHONE[0]
            page.one("#new-chat").click()

    def test_the_keyboard_reaches_all_of_it(self, page: Page, files: dict[str, Path]) -> None:
        choose(page, files["wide.png"])
        body = (
            "const body = document.body; body.tabIndex = -1; body.focus(); body.removeAttribute('tabindex');"
        )
        page.run(body)
        reached = []
        for _ in range(9):
            page.press(Keys.TAB)
            element = page.driver.switch_to.active_element
            reached.append(element.get_attribute("aria-label") or element.get_attribute("id"))
        start = reached.index("Remove wide.png")
        assert reached[start : start + 3] == ["Remove wide.png", "Attach images", "Question"]
        page.one("#attached button").send_keys(Keys.ENTER)
        assert page.focused == "question"


class TestExport:
    @pytest.fixture
    def downloads(self, page: Page, tmp_path: Path) -> Path:
        settings = {"behavior": "allow", "downloadPath": str(tmp_path)}
        page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", settings)
        return tmp_path

    def test_json_has_images_and_markdown_their_names(
        self, page: Page, files: dict[str, Path], downloads: Path
    ) -> None:
        choose(page, files["wide.png"])
        page.ask(ASKED)
        for kind in ("json", "md"):
            page.one("#export").click()
            page.one(f"[data-kind={kind}]").click()
            until((downloads / f"conversation.{kind}").is_file, "the file")
        (message, _) = json.loads((downloads / "conversation.json").read_text(encoding="utf-8"))["messages"]
        assert images_in(message["content"]) == [WIDE]
        text = (downloads / "conversation.md").read_text(encoding="utf-8")
        assert text.startswith(f"## User\n\n[wide.png]\n\n{ASKED}\n")
