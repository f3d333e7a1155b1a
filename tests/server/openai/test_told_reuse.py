"""What one client asked is not told to another by the number of tokens that its request found computed."""

from __future__ import annotations

import re

import httpx2

from edgephi.server.engine.messages import Progress
from tests.server.serving import PATIENCE, Server

SECRET = "my code is nine seven three, and the alarm is off. " * 8
REUSED = 'edgephi_tokens_total{kind="reused"}'


def told(server: Server, guess: str) -> set[int]:
    """All numbers that a guess comes back with."""
    before = server.metric(REUSED)
    document = server.chat(guess, max_tokens=1).json()
    return {
        document["usage"]["prompt_tokens_details"]["cached_tokens"],
        document["edgephi"]["reused_tokens"],
        int(server.metric(REUSED) - before),
    }


def test_a_guess_is_not_confirmed_token_by_token(server: Server) -> None:
    numbers = []
    for length in range(208, 264, 8):
        assert server.chat(SECRET, max_tokens=1).status_code == 200  # what the guess can be compared with
        numbers.append(told(server, SECRET[:length] + "?"))
    assert all(len(each) == 1 and next(iter(each)) % 32 == 0 for each in numbers)
    assert all(max(each) >= 64 for each in numbers)  # enough was found for a number to tell something
    assert len(set(map(frozenset, numbers))) <= 2  # all but one word more told nothing


def test_nor_by_how_far_the_prompt_was_read(server: Server) -> None:
    assert server.chat(SECRET, max_tokens=1).status_code == 200
    body = {
        "messages": [{"role": "user", "content": SECRET[:306] + "turn on the light, " * 40}],
        "stream": True,
        "max_tokens": 1,
    }
    response = httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=PATIENCE)
    steps = [tuple(map(int, each)) for each in re.findall(r": prefill (\d+)/(\d+)", response.text)]
    assert len(steps) > 2 and steps[0][0] >= 96  # it went on from what it found
    assert all(done % 32 == 0 or done == total for done, total in steps)


def test_long_beginnings_are_still_told(server: Server) -> None:
    server.chat(SECRET, max_tokens=1)
    (number,) = told(server, SECRET + "?")
    assert number >= 64


def test_two_digits_of_a_speed_are_told() -> None:
    from edgephi.server.openai.told_reuse import told_progress, told_speed

    assert [told_speed(speed) for speed in (0.0, 0.123, 9.99, 1234.5)] == [0.0, 0.12, 10.0, 1200.0]
    assert told_progress(Progress(1, 45, 100)) == (32, 100)
    assert told_progress(Progress(1, 100, 100)) == (100, 100)
