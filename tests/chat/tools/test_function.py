"""Tools as OpenAI's API describes them, and which of them may be called."""

from __future__ import annotations

from typing import Any

import pytest

from edgephi.chat.tools.function import calling, functions
from edgephi.errors import BadInputError
from tests.chat.tools.functions import LIGHT, TIME, TOOLS


def names(choice: Any) -> tuple[list[str], str]:
    found = calling(TOOLS, choice)
    return [each.name for each in found.functions], found.choice


def test_a_function_without_parameters_takes_none() -> None:
    (found,) = functions([TIME])
    assert (found.name, found.description) == ("get_time", "")
    assert found.parameters == {"type": "object", "properties": {}}


def test_what_may_be_called() -> None:
    every = ["light", "lights", "get_time"]
    assert names(None) == names("auto") == (every, "auto")
    assert names("required") == (every, "required")
    assert names("none") == (every, "none")
    assert (
        names("light")
        == names({"type": "function", "function": {"name": "light"}})
        == (["light"], "required")
    )
    assert names({"type": "function", "name": "get_time"}) == (["get_time"], "required")
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "light"}}]}
    assert names({"type": "allowed_tools", "allowed_tools": allowed}) == (["light"], "auto")


def test_a_function_that_must_be_called_is_called_once() -> None:
    assert not calling(TOOLS, "light").parallel
    assert calling(TOOLS, "required").parallel
    assert not calling(TOOLS, "required", parallel=False).parallel


def test_the_model_is_told_of_all_whichever_may_be_called() -> None:
    assert calling(TOOLS, "light").told == calling(TOOLS).told == functions(TOOLS)
    assert calling(TOOLS, "none").told == ()


def test_without_tools_no_call_may_come() -> None:
    assert not calling([]).may_come
    assert not calling(TOOLS, "none").may_come
    assert calling(TOOLS).may_come


def nested(levels: int) -> dict[str, Any]:
    """A schema of so many levels."""
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"not": schema}
    return schema


def circle() -> dict[str, Any]:
    """An object that has itself in it."""
    schema: dict[str, Any] = {}
    schema["properties"] = schema
    return schema


@pytest.mark.parametrize(
    "parameters",
    [nested(65), nested(400), nested(100_000), circle(), {"enum": {1}}, {"enum": [b"a"]}],
    ids=["levels", "many", "far too many", "circle", "set", "bytes"],
)
def test_parameters_that_are_no_json(parameters: dict[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "light", "parameters": parameters}}
    with pytest.raises(BadInputError, match=r"tools\[0\]: expected JSON of at most 64 levels as parameters"):
        functions([tool])


def test_parameters_of_many_levels() -> None:
    tool = {"type": "function", "function": {"name": "light", "parameters": nested(64)}}
    assert functions([tool])[0].parameters == nested(64)


@pytest.mark.parametrize(
    ("tools", "found"),
    [
        (["light"], "found str"),
        ([{"type": "web_search"}], "found 'web_search'"),
        ([{"type": "custom", "custom": {"name": "a"}}], "found 'custom'"),
        ([{"type": "function"}], "found NoneType"),
        ([{"function": {}}], "found None"),
        ([{"function": {"name": "switch the light"}}], "found 'switch the light'"),
        ([{"function": {"name": 'a"b'}}], "letters, digits"),
        ([{"function": {"name": "a" * 65}}], "at most 64"),
        ([{"function": {"name": "a", "description": 3}}], "found int"),
        ([{"function": {"name": "a", "parameters": []}}], r"found \[\]"),
        ([{"function": {"name": "a", "parameters": {"type": "string"}}}], "schema of an object"),
        ([LIGHT, LIGHT], "'light' twice"),
        ([TIME] * 129, "at most 128"),
    ],
)
def test_what_is_no_tool(tools: list[Any], found: str) -> None:
    with pytest.raises(BadInputError, match=found):
        functions(tools)


@pytest.mark.parametrize(
    "choice", ["door", "", 3, [], {}, {"type": "function"}, {"type": "allowed_tools"}, {"type": "custom"}]
)
def test_what_is_no_choice(choice: Any) -> None:
    with pytest.raises(BadInputError, match="tool_choice"):
        calling(TOOLS, choice)


@pytest.mark.parametrize("choice", ["required", "light", {"type": "function", "function": {"name": "light"}}])
def test_a_choice_without_tools(choice: Any) -> None:
    with pytest.raises(BadInputError, match="tool_choice"):
        calling([], choice)
