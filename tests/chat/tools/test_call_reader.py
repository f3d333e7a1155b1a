"""Calls that are read out of an answer while it is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from edgephi.chat.tools.call_form import PHI_4_MINI_FORM, TAUGHT_FORM, CallForm
from edgephi.chat.tools.call_reader import CallReader
from tests.property_profile import examples

BARE_FORM = CallForm('{"name": "', '", "parameters": ', None, "}", "by the template")
FUNCTOOLS_FORM = CallForm(
    'functools[{"name": "', '", "arguments": ', '}, {"name": "', "}]", "by the template"
)
MISTRAL_FORM = CallForm(
    '[TOOL_CALLS] [{"name": "', '", "arguments": ', '}, {"name": "', "}]", "by the template"
)
FORMS = [TAUGHT_FORM, PHI_4_MINI_FORM, FUNCTOOLS_FORM, MISTRAL_FORM]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
calls = st.tuples(
    st.text("abc_-.", min_size=1, max_size=5),
    st.dictionaries(st.text(max_size=5), values, max_size=3).map(
        lambda arguments: json.dumps(arguments, ensure_ascii=False)
    ),
)


def written(form: CallForm, calls: Sequence[tuple[str, str]]) -> str:
    """Calls as a model writes them."""
    text = "".join(
        f"{form.between if place else form.before}{name}{form.within}{arguments}"
        for place, (name, arguments) in enumerate(calls)
    )
    return text + form.after


def pieces_of(text: str, sizes: Sequence[int]) -> list[str]:
    """A text cut into pieces, over and over of these sizes."""
    pieces, place = [], 0
    while place < len(text):
        for size in sizes:
            pieces.append(text[place : place + size])
            place += size
    return pieces


def read(form: CallForm, pieces: Sequence[str]) -> tuple[str, CallReader, dict[int, Any]]:
    """The text that is shown, the reader at the end, and each call put together from its pieces."""
    reader, shown = CallReader(form), ""
    parts: dict[int, Any] = {}
    for piece in pieces:
        text, more = reader.feed(piece)
        shown += text
        for part in more:
            id_, name, arguments = parts.get(part.place, ("", "", ""))
            parts[part.place] = id_ + part.id, name + part.name, arguments + part.arguments
    return shown + reader.rest(), reader, parts


@settings(max_examples=examples(300))
@given(
    form=st.sampled_from(FORMS),
    text=st.text(st.sampled_from(list("ab <|tolc_>[{\n")), max_size=20),
    made=st.lists(calls, min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_however_the_answer_is_cut_text_and_calls_are_the_same(
    form: CallForm, text: str, made: list[tuple[str, str]], sizes: list[int]
) -> None:
    if form.mark in text + form.mark[:-1]:
        text = ""
    shown, reader, parts = read(form, pieces_of(text + written(form, made), sizes))
    assert shown == text
    assert [(call.name, call.arguments) for call in reader.calls] == made
    assert not reader.is_inside
    assert [(name, arguments) for _, name, arguments in parts.values()] == made
    assert [id_ for id_, _, _ in parts.values()] == [call.id for call in reader.calls]
    assert len({call.id for call in reader.calls}) == len(made)


@settings(max_examples=examples(200))
@given(
    form=st.sampled_from([*FORMS, BARE_FORM]),
    text=st.text(st.sampled_from(list("ab <|tolc_>\n")), max_size=30),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_text_without_a_call_stays_as_it_is(form: CallForm, text: str, sizes: list[int]) -> None:
    if form.mark in text:
        return
    shown, reader, _ = read(form, pieces_of(text, sizes))
    assert (shown, reader.calls, reader.is_calling) == (text, [], False)


@given(made=calls, size=st.integers(1, 9))
def test_without_a_mark_a_call_opens_the_answer(made: tuple[str, str], size: int) -> None:
    call = written(BARE_FORM, [made])
    shown, reader, _ = read(BARE_FORM, pieces_of(call, [size]))
    assert (shown, [(each.name, each.arguments) for each in reader.calls]) == ("", [made])
    shown, reader, _ = read(BARE_FORM, pieces_of(f"So: {call}", [size]))
    assert (shown, reader.calls) == (f"So: {call}", [])


def test_a_call_that_is_cut_off_is_none() -> None:
    whole = written(TAUGHT_FORM, [("light", '{"on": true}'), ("light", '{"on": false}')])
    cut = whole[: whole.rindex("false")]
    shown, reader, parts = read(TAUGHT_FORM, [cut])
    assert (shown, len(reader.calls), reader.is_inside) == ("", 1, True)
    assert parts[1][2] == '{"on": '


def test_ids_are_what_every_template_takes() -> None:
    _, reader, _ = read(TAUGHT_FORM, [written(TAUGHT_FORM, [("a", "{}")])])
    assert len(reader.calls[0].id) == 9
    assert reader.calls[0].id.isalnum()
