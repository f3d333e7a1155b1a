"""What a test's process does when a signal comes does not depend on the tests before it."""

import os
import signal
from collections.abc import Iterator

import pytest

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(scope="module", autouse=True)
def _left_by_a_command() -> Iterator[None]:
    """As a command leaves them that a fixture of many tests runs in this process."""
    before = [signal.getsignal(number) for number in NUMBERS]
    for number in NUMBERS:
        signal.signal(number, lambda number, _: os._exit(128 + number))
    yield
    for number, handler in zip(NUMBERS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_are_those_of_the_beginning(number: signal.Signals) -> None:
    beginning = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    assert signal.getsignal(number) in (beginning, signal.SIG_IGN)
