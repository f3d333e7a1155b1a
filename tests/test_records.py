"""Strict reading of plain data into dataclasses."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgephi.errors import BadDeclarationError
from edgephi.records import read_record, write_record


@dataclass(frozen=True)
class Inner:
    name: str
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    count: int
    flag: bool
    kind: Literal["a", "b"]
    inner: Inner
    maybe: Inner | None = None
    words: tuple[str, ...] = ()
    sizes: dict[str, int] | None = None


GOOD: dict[str, Any] = {"count": 1, "flag": True, "kind": "a", "inner": {"name": "x"}}


def read(data: object) -> Outer:
    return read_record(Outer, data, where="file.toml", error=BadDeclarationError, hint="mend it")


def test_defaults_fill_what_is_left_out() -> None:
    assert read(GOOD) == Outer(1, True, "a", Inner("x", 0.5))


def test_what_somebody_else_looks_into_is_left_as_it_is() -> None:
    @dataclass(frozen=True)
    class Line:
        answer: dict[str, object]

    data = {"answer": {"any": [1, {"deep": None}], "thing": "x"}}
    assert read_record(Line, data, where="line", error=BadDeclarationError, hint="").answer == data["answer"]


def test_a_whole_number_is_a_number() -> None:
    assert read(GOOD | {"inner": {"name": "x", "share": 1}}).inner.share == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cuont": 1}, "file.toml: unknown key 'cuont'; did you mean 'count'?"),
        ({"zzz": 1}, "file.toml: unknown key 'zzz'; known: count, flag"),
        ({"inner": {"nmae": "x"}}, "file.toml: inner: unknown key 'nmae'; did you mean 'name'?"),
        ({"inner": {}}, "file.toml: inner: key 'name' is missing"),
        ({"inner": None}, "file.toml: inner: expected a table, found None"),
        ({"count": "1"}, "file.toml: count: expected a whole number, found '1'"),
        ({"count": True}, "file.toml: count: expected a whole number, found True"),
        ({"count": 1.0}, "file.toml: count: expected a whole number, found 1.0"),
        ({"count": 1 << 63}, "file.toml: count: expected a number of 64 bits, found one of 64"),
        (
            {"inner": {"name": "x", "share": -(10**400)}},
            "file.toml: inner: share: expected a number of 64 bits, found one of 1329",
        ),
        ({"flag": 1}, "file.toml: flag: expected true or false, found 1"),
        ({"kind": "c"}, "file.toml: kind: expected one of 'a', 'b', found 'c'"),
        ({"words": "abc"}, "file.toml: words: expected a list, found 'abc'"),
        ({"words": ["a", 2]}, "file.toml: words[1]: expected a string, found 2"),
        ({"sizes": {"x": "y"}}, "file.toml: sizes.x: expected a whole number, found 'y'"),
        ({"sizes": []}, "file.toml: sizes: expected a table, found []"),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(BadDeclarationError) as caught:
        read(GOOD | change)
    assert caught.value.message.startswith(message)
    assert caught.value.hint == "mend it"


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_data_that_is_no_table(data: object) -> None:
    with pytest.raises(BadDeclarationError, match="expected a table"):
        read(data)


inners = st.builds(Inner, st.text(), st.floats(allow_nan=False))
# Of 64 bits: more is refused.
whole_numbers = st.integers(1 - (1 << 63), (1 << 63) - 1)
outers = st.builds(
    Outer,
    whole_numbers,
    st.booleans(),
    st.sampled_from(["a", "b"]),
    inners,
    st.none() | inners,
    st.lists(st.text()).map(tuple),
    st.none() | st.dictionaries(st.text(), whole_numbers),
)


@given(outers)
def test_what_is_written_reads_back_the_same(outer: Outer) -> None:
    assert read(write_record(outer)) == outer
