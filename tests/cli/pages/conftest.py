"""A browser that shows a page of a command."""

from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome

from tests.server.page.browser import BROWSER, DRIVER, browsing


@pytest.fixture(scope="package")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    if BROWSER is None or DRIVER is None:
        pytest.skip("no chromium and chromedriver (apt install chromium chromium-driver)")
    with browsing(tmp_path_factory.mktemp("profile")) as running:
        yield running
