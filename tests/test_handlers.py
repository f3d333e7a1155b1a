"""A signal in a test's process does not depend on the tests before it, and no test sends it one."""

import ast
import os
import signal
from collections.abc import Iterator
from pathlib import Path

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


_TO_ITSELF = {"os.kill(os.getpid()", "signal.raise_signal(", "_thread.interrupt_main("}


def signalled(source: str) -> list[str]:
    """The calls in a test's module that send its own process a signal: one text a call."""
    calls = [ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call for call in calls if call.startswith(tuple(_TO_ITSELF))]


def test_a_test_signals_a_process_of_its_own() -> None:
    """Where a handler is not what it thinks, one that signals this process ends all tests that are left."""
    modules = sorted(Path(__file__).parent.rglob("test_*.py"))
    assert len(modules) > 100
    assert {path.name: found for path in modules if (found := signalled(path.read_text()))} == {}


def test_one_that_signals_its_own_would_be_found() -> None:
    assert signalled(
        "import os\nos.kill(os.getpid(), 2)\nos.kill(child.pid, 2)\n'os.kill(os.getpid(), 2)'"
    ) == ["os.kill(os.getpid(), 2)"]
