"""The chat page in a real browser: Chromium without a window, through its own driver."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.server.serving import PATIENCE, until

BROWSER = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
_SWITCHES = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
TELEPHONE, DESK = (360, 740), (1280, 800)  # CSS pixels


@contextlib.contextmanager
def browsing(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser that has never been used."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for switch in (*_SWITCHES.split(), f"--user-data-dir={profile}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.set_script_timeout(PATIENCE)
    try:
        yield driver
    finally:
        driver.quit()


@dataclass(frozen=True)
class Page:
    """The page of one server, in a tab that holds nothing of an earlier one."""

    driver: webdriver.Chrome
    url: str

    def open(self) -> None:
        """Load it as a new tab would: without a key."""
        self.driver.get(f"{self.url}/page/icon.svg")
        self.run("sessionStorage.clear()")
        self.driver.get(f"{self.url}/")

    def look(
        self,
        size: tuple[int, int] = DESK,
        *,
        dark: bool = False,
        still: bool = False,
    ) -> None:
        """Show it on a screen of `size`, in light or dark, with or without motion."""
        width, height = size
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """The text of the last element that fits, seen or not; "" without one."""
        script = "return [...document.querySelectorAll(arguments[0])].at(-1)?.textContent.trim() ?? ''"
        return str(self.driver.execute_script(script, selector))

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def press(self, *keys: str) -> None:
        """Keys for whatever has the focus."""
        self.driver.switch_to.active_element.send_keys(*keys)

    @property
    def focused(self) -> str:
        """The id of the element that has the focus."""
        return str(self.run("return document.activeElement.id"))

    def until_state(self, state: str) -> None:
        until(lambda: self.text("#state") == state, f"the state {state!r}, not {self.text('#state')!r},")

    def ask(self, question: str, *, wait: bool = True) -> None:
        """Type a question, send it, and wait for the end of the answer."""
        self.one("#question").send_keys(question, Keys.ENTER)
        if wait:
            until(lambda: self.one("#send").is_displayed(), "the end of the answer")

    @property
    def answer(self) -> str:
        """The last answer's text."""
        return self.text(".answer > .text")

    @property
    def numbers(self) -> list[str]:
        """What stands below the last answer."""
        script = (
            "return [...[...document.querySelectorAll('.numbers')].at(-1).children].map((e) => e.textContent)"
        )
        return [str(each) for each in self.run(script)]

    def events(self) -> list[dict[str, Any]]:
        """What the browser did since the last call: events of its DevTools protocol."""
        found = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        return [{"method": event["method"], **event["params"]} for event in found]

    def complaints(self) -> list[str]:
        """What stands in the browser's console since the last call: errors and warnings."""
        return [entry["message"] for entry in self._log("browser")]

    def _log(self, kind: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.driver.get_log(kind)  # type: ignore[no-untyped-call]
        return entries


def requests_in(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was asked of any server, whether it was sent or not."""
    return [event["request"] for event in events if event["method"] == "Network.requestWillBeSent"]


def settled(value: Callable[[], Any]) -> Any:
    """A value that has not changed for a moment."""
    end = time.monotonic() + PATIENCE
    last = value()
    while time.monotonic() < end:
        time.sleep(0.15)
        now = value()
        if now == last:
            return now
        last = now
    raise AssertionError(f"still changing: {last!r}")
