"""One browser, and the servers whose page it shows."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from tests.npm_packages import NoPackagesError, npm_packages
from tests.server.page.browser import BROWSER, DESK, DRIVER, Page, browsing
from tests.server.serving import Server, serving, slowly, until

QUESTION = "turn on the kitchen light"
ANSWER = '{"action": "turn_on", "room": "kitchen", "device": "light"}'
KEY = "a-key-of-a-test"


@pytest.fixture(scope="package")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    if BROWSER is None or DRIVER is None:
        pytest.skip("no chromium and chromedriver (apt install chromium chromium-driver)")
    with browsing(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="package")
def slow_server(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes its time for each token, and lets nobody wait."""
    folder = tmp_path_factory.mktemp("slow")
    with serving(demo_bundle, folder, "--context", 512, "--queue", 0, **slowly(0.25)) as running:
        yield running


@pytest.fixture(scope="package")
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
    """The page of the server that takes its time, and is done with what an earlier test stopped."""
    until(lambda: slow_server.chat(max_tokens=1).status_code == 200, "an idle server")
    opened = open_page(slow_server)
    opened.until_state("Ready")
    return opened


@pytest.fixture(scope="session")
def node_modules(pytestconfig: pytest.Config) -> Path:
    """The packages of npm that run in a browser."""
    assert pytestconfig.cache is not None
    try:
        return npm_packages(pytestconfig.cache.mkdir("npm"))
    except NoPackagesError as cause:
        pytest.skip(str(cause))
