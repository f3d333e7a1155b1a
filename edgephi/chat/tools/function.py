"""Functions that a model may call, as OpenAI's API describes them, and which of them it may or must."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgephi.errors import BadInputError

MOST_FUNCTIONS = 128
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DEEPEST = 64  # lists and objects inside each other
_FORM = (
    "a tool is {'type': 'function', 'function': {'name': 'light', 'description': '…', "
    "'parameters': {'type': 'object', 'properties': {…}}}}"
)

Choice = Literal["auto", "required", "none"]


@dataclass(frozen=True)
class Function:
    """A function by its name and the JSON schema of its arguments, which are an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    @property
    def described(self) -> dict[str, Any]:
        """What a model is told of it."""
        return {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}


@dataclass(frozen=True)
class Calling:
    """What one answer may call: any of `functions`, "required" at least one of them, "none" none.

    Where `parallel`, more than one call may come in one answer. The model is told of all those that are
    `told`, so that a prompt begins alike whichever of them may be called this time.
    """

    functions: tuple[Function, ...]
    told: tuple[Function, ...]
    choice: Choice = "auto"
    parallel: bool = True

    @property
    def may_come(self) -> bool:
        """Whether there can be a call at all."""
        return bool(self.functions) and self.choice != "none"


NO_CALLS = Calling((), (), "none")


def calling(tools: Sequence[Any], choice: Any = None, *, parallel: bool = True) -> Calling:
    """What an answer may call by `tools` and `tool_choice` of OpenAI's API.

    `choice` is "auto" (also None), "none", "required", the name of one function that must be called, or one
    of the API's objects, {"type": "function", …} and {"type": "allowed_tools", …}. A function that must
    be called by its name is called once. Raises BadInputError, also when a call is wanted and there are no
    tools.
    """
    found = functions(tools)
    allowed, mode = _chosen(choice, tuple(each.name for each in found))
    is_named = mode == "required" and choice != "required"
    if mode == "required" and not allowed:
        raise BadInputError(f"expected tools with tool_choice {choice!r:.80}, found none", hint=_FORM)
    may_be_called = tuple(each for each in found if each.name in allowed)
    told = () if mode == "none" else found
    return Calling(may_be_called, told, mode, parallel and not (is_named and len(may_be_called) == 1))


def functions(tools: Sequence[Any]) -> tuple[Function, ...]:
    """The functions of a list of tools. Raises BadInputError for another kind of tool, or a broken one."""
    if len(tools) > MOST_FUNCTIONS:
        raise BadInputError(f"expected at most {MOST_FUNCTIONS} tools, found {len(tools)}", hint=_FORM)
    found = tuple(_function(tool, f"tools[{place}]") for place, tool in enumerate(tools))
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise BadInputError(f"expected functions of different names, found {name!r} twice", hint=_FORM)
    return found


def _function(tool: Any, where: str) -> Function:
    if not isinstance(tool, Mapping):
        raise BadInputError(f"{where}: expected an object, found {type(tool).__name__}", hint=_FORM)
    kind = tool.get("type", "function")
    if kind != "function":
        raise BadInputError(f"{where}: expected the type 'function', found {kind!r:.60}", hint=_FORM)
    inner = tool.get("function")
    if not isinstance(inner, Mapping):
        raise BadInputError(f"{where}: expected a function, found {type(inner).__name__}", hint=_FORM)
    name, description, parameters = (inner.get(key) for key in ("name", "description", "parameters"))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadInputError(
            f"{where}: expected a name of at most 64 letters, digits, '_', '-' and '.', found {name!r:.80}",
            hint=_FORM,
        )
    if description is not None and not isinstance(description, str):
        raise BadInputError(
            f"{where}: expected a text as description, found {type(description).__name__}", hint=_FORM
        )
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise BadInputError(
            f"{where}: expected the JSON schema of an object as parameters, found {parameters!r:.60}",
            hint=_FORM,
        )
    if not _is_json(dict(parameters)):
        raise BadInputError(
            f"{where}: expected JSON of at most {_DEEPEST} levels as parameters, found something else",
            hint=_FORM,
        )
    return Function(name, description or "", parameters)


def _is_json(value: Any) -> bool:
    """Whether a value can be written as JSON, and read again by programs that go down level by level."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # another kind of object, a circle, or far too deep
        return False
    level = [value]
    for _ in range(_DEEPEST):
        nested = (each.values() if isinstance(each, dict) else each for each in level)
        level = [inner for each in nested for inner in each if isinstance(inner, dict | list | tuple)]
        if not level:
            return True
    return False


def _chosen(choice: Any, names: tuple[str, ...]) -> tuple[tuple[str, ...], Choice]:
    """The names of the functions that may be called, and whether one must."""
    if choice is None or choice == "auto":
        return names, "auto"
    if choice in ("none", "required"):
        return names, choice
    if isinstance(choice, str):
        return (_known(choice, names),), "required"
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        return (_known(_named(choice), names),), "required"
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools", choice)
        mode = allowed.get("mode", "auto") if isinstance(allowed, Mapping) else None
        listed = allowed.get("tools") if isinstance(allowed, Mapping) else None
        if mode in ("auto", "required") and isinstance(listed, Sequence) and not isinstance(listed, str):
            return tuple(_known(_named(each), names) for each in listed), mode
    raise BadInputError(
        f"expected 'auto', 'none', 'required' or a function as tool_choice, found {choice!r:.80}",
        hint="a function is {'type': 'function', 'function': {'name': 'light'}}",
    )


def _named(choice: Any) -> Any:
    """The name in {"type": "function", "function": {"name": …}}, or without the "function" around it."""
    inner = choice.get("function", choice) if isinstance(choice, Mapping) else None
    return inner.get("name") if isinstance(inner, Mapping) else None


def _known(name: Any, names: tuple[str, ...]) -> str:
    if isinstance(name, str) and name in names:
        return name
    raise BadInputError(
        f"expected the name of one of the tools as tool_choice, found {name!r:.80}",
        hint=f"the tools are {', '.join(names)[:200] or 'none'}",
    )
