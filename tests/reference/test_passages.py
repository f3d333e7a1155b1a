"""Passages: what a file says of its text by its name, and how some are chosen of many."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgephi.reference.passages import (
    Passage,
    StoredConversation,
    evenly_spaced,
    in_tokens,
    in_words,
    shipped_passages,
)
from tests.phi_3_chat import as_phi_3

MESSAGES = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."})


def as_bytes(text: str) -> list[int]:
    return list(text.encode())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rain.prose.zh.txt").write_bytes("下雨了。\n".encode())
    (tmp_path / "hello.chat.en.json").write_text(json.dumps({"messages": list(MESSAGES)}))
    (tmp_path / "b.prose.de.txt").write_bytes(b"B\r\n")
    (tmp_path / "a.prose.de.txt").write_bytes(b"A")
    return tmp_path


def test_files_say_by_their_names_what_they_are(folder: Path) -> None:
    assert shipped_passages(folder) == (
        StoredConversation("hello", "en", "chat", MESSAGES),
        Passage("a", "de", "prose", "A"),
        Passage("b", "de", "prose", "B\r\n"),
        Passage("rain", "zh", "prose", "下雨了。\n"),
    )


def test_a_conversation_is_written_as_the_caller_writes_them(folder: Path) -> None:
    chat, *_ = shipped_passages(folder)
    assert in_words(chat, as_phi_3) == Passage(
        "hello", "en", "chat", "<|user|>\nHi<|end|>\n<|assistant|>\nHello.<|end|>\n"
    )
    shouted = in_words(chat, lambda messages: "/".join(message["content"].upper() for message in messages))
    assert shouted.text == "HI/HELLO."


def test_tokens_are_those_of_the_beginning(folder: Path) -> None:
    passage = Passage("a", "de", "prose", "Abend")
    assert in_tokens(passage, as_bytes, as_phi_3).ids == tuple(b"Abend")
    assert in_tokens(passage, as_bytes, as_phi_3, most=2).ids == tuple(b"Ab")


@given(st.integers(0, 60), st.integers(0, 60))
def test_places_are_evenly_spaced(count: int, total: int) -> None:
    places = evenly_spaced(count, total)
    assert len(places) == min(count, total)
    assert all(0 <= place < total for place in places)
    steps = {after - before for before, after in pairwise(places)}
    assert not steps or 1 <= min(steps) <= max(steps) <= min(steps) + 1


def test_all_places_are_all() -> None:
    assert evenly_spaced(9, 5) == [0, 1, 2, 3, 4]
