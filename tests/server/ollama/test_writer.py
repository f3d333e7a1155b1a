"""Calls of functions in Ollama's words, whatever pieces they come in."""

import json
from typing import Any

import msgspec

from edgephi.server.engine.messages import CallPart, End, Piece
from edgephi.server.ollama.writer import OllamaWriter

PIECES = [
    Piece(1, "", 0.0, calls=(CallPart(0, "", "call_a", "light"),)),
    Piece(1, "", 0.0, calls=(CallPart(0, '{"room": "kit'), CallPart(0, 'chen"}'))),
    Piece(1, "", 0.0, calls=(CallPart(1, "{}", "call_b", "timer"), CallPart(2, '{"a', "call_c", "cut"))),
]
TWO_CALLS = [
    {"id": "call_a", "function": {"index": 0, "name": "light", "arguments": {"room": "kitchen"}}},
    {"id": "call_b", "function": {"index": 1, "name": "timer", "arguments": {}}},
]


def plain(chunk: msgspec.Struct) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(msgspec.json.encode(chunk))
    return found


def end(calls: int) -> End:
    return End(1, "tool_calls" if calls == 3 else "length", 1.0, 5, 0, 9, 0.1, 50.0, 10.0, calls)


def test_calls_are_told_when_they_are_whole_in_a_line_before_the_last() -> None:
    writer = OllamaWriter(model="m", chat=True, scored=False)
    assert [chunk for piece in PIECES for chunk in writer.chunks(piece)] == []
    calls, last = map(plain, writer.closing(end(2)))
    assert calls["message"]["tool_calls"] == TWO_CALLS and not calls["done"]
    assert last["done"] and last["done_reason"] == "length" and "tool_calls" not in last["message"]


def test_and_in_an_answer_that_is_not_streamed() -> None:
    answer = plain(OllamaWriter(model="m", chat=True, scored=False).whole(PIECES, end(2)))
    assert answer["message"] == {"role": "assistant", "content": "", "tool_calls": TWO_CALLS}
    assert answer["done"] and answer["eval_duration"] == 900_000_000


def test_a_call_that_ends_an_answer_is_a_stop() -> None:
    pieces = [*PIECES, Piece(1, "", 0.0, calls=(CallPart(2, '": 1}'),))]
    answer = plain(OllamaWriter(model="m", chat=True, scored=False).whole(pieces, end(3)))
    assert answer["done_reason"] == "stop"
    assert answer["message"]["tool_calls"][2]["function"]["arguments"] == {"a": 1}
