"""Strict reading of plain data (JSON, TOML) into frozen dataclasses, and back.

Manifests, recipes and targets are all declared as dataclasses; this is the one place that checks the
data of a file against such a declaration. An unknown key is an error that names the nearest known one:
a misspelt option that is silently ignored is the worst kind of configuration bug.
"""

import dataclasses
import reprlib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from edgephi.errors import EdgephiError

Record = TypeVar("Record")

_LONGEST_SHOWN = 80
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 3, 4, 4
_SHORT.maxstring = _SHORT.maxother = _LONGEST_SHOWN
_PLAIN_NAMES: dict[type, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def read_record(
    record: type[Record], data: object, *, where: str, error: type[EdgephiError], hint: str
) -> Record:
    """Build the frozen dataclass `record` from plain `data`, checking every key and every type.

    `where` names the data in messages (a file name, then the path of keys inside it). Raises `error`
    with `hint` when a key is unknown or missing, or a value has the wrong type.
    """

    def fail(message: str) -> typing.Never:
        raise error(message, hint=hint)

    def read(kind: Any, value: object, place: str) -> Any:  # noqa: PLR0911, PLR0912 - one return a kind
        if kind is object:  # any plain data, which somebody else looks into
            return value
        origin = typing.get_origin(kind)
        if origin in (typing.Union, types.UnionType):
            options = [option for option in typing.get_args(kind) if option is not type(None)]
            return None if value is None else read(options[0], value, place)
        if origin is Literal:
            choices = typing.get_args(kind)
            # The type too: 4.0 and True equal whole numbers, but do not work as such.
            if not any(value == choice and type(value) is type(choice) for choice in choices):
                fail(f"{place}: expected one of {', '.join(map(repr, choices))}, found {_shown(value)}")
            return value
        if origin is tuple:
            if not isinstance(value, list):
                fail(f"{place}: expected a list, found {_shown(value)}")
            item_kind = typing.get_args(kind)[0]
            if item_kind in _PLAIN_NAMES and all(type(item) is item_kind for item in value):
                return tuple(value)  # a large bundle has thousands of chunks
            return tuple(read(item_kind, item, f"{place}[{i}]") for i, item in enumerate(value))
        if origin in (dict, Mapping):
            if not isinstance(value, dict):
                fail(f"{place}: expected a table, found {_shown(value)}")
            item_kind = typing.get_args(kind)[1]
            return {str(key): read(item_kind, item, f"{place}.{_plain(key)}") for key, item in value.items()}
        if dataclasses.is_dataclass(kind):
            return read_fields(typing.cast("type[Any]", kind), value, place)
        # TOML's and everybody's whole numbers have 64 bits; Python's go on, to where no float follows.
        if kind in (int, float) and isinstance(value, int) and abs(value) >= 1 << 63:
            fail(f"{place}: expected a number of 64 bits, found one of {value.bit_length()}")
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if type(value) is not kind:
            fail(f"{place}: expected {_PLAIN_NAMES[kind]}, found {_shown(value)}")
        return value

    def read_fields(declared: type[Any], value: object, place: str) -> Any:
        if not isinstance(value, dict):
            fail(f"{place}: expected a table, found {_shown(value)}")
        fields = {field.name: field for field in dataclasses.fields(declared)}
        for key in value:
            if key not in fields:
                import difflib

                close = difflib.get_close_matches(str(key)[:_LONGEST_SHOWN], fields, n=1)
                meant = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(fields)}"
                fail(f"{place}: unknown key {_shown(key)}{meant}")
        kinds = typing.get_type_hints(declared)
        given: dict[str, Any] = {}
        for name, field in fields.items():
            if name in value:
                given[name] = read(kinds[name], value[name], f"{place}: {name}")
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                fail(f"{place}: key {name!r} is missing")
        return declared(**given)

    return typing.cast("Record", read_fields(record, data, where))


def _shown(value: object) -> str:
    """A value for a message, which stays one line whatever a stranger has written into the file."""
    return _SHORT.repr(value)[: 3 * _LONGEST_SHOWN]


def _plain(key: object) -> str:
    """A key for the path to a value."""
    text = str(key)
    return text if len(text) <= _LONGEST_SHOWN and text.isprintable() else _shown(text)


def write_record(record: object) -> Any:
    """The plain data of a frozen dataclass, ready for `json.dumps`; the inverse of `read_record`."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: write_record(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, tuple | list):
        return [write_record(item) for item in record]
    if isinstance(record, dict):
        return {key: write_record(item) for key, item in record.items()}
    return record
