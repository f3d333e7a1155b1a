"""Strict reading of plain data (JSON, TOML) into frozen dataclasses, and back.

Manifests, recipes and targets are all declared as dataclasses; this is the one place that checks the
data of a file against such a declaration. An unknown key is an error that names the nearest known one:
a misspelt option that is silently ignored is the worst kind of configuration bug.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from edgephi.errors import BadInputError

Record = TypeVar("Record")

_PLAIN_NAMES: dict[type, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def read_record(
    record: type[Record], data: object, *, where: str, error: type[BadInputError], hint: str
) -> Record:
    """Build the frozen dataclass `record` from plain `data`, checking every key and every type.

    `where` names the data in messages (a file name, then the path of keys inside it). Raises `error`
    with `hint` when a key is unknown or missing, or a value has the wrong type.
    """

    def fail(message: str) -> typing.Never:
        raise error(message, hint=hint)

    def read(kind: Any, value: object, place: str) -> Any:  # noqa: PLR0911 - one return a kind
        origin = typing.get_origin(kind)
        if origin in (typing.Union, types.UnionType):
            options = [option for option in typing.get_args(kind) if option is not type(None)]
            return None if value is None else read(options[0], value, place)
        if origin is Literal:
            choices = typing.get_args(kind)
            # The type too: 4.0 and True equal whole numbers, but do not work as such.
            if not any(value == choice and type(value) is type(choice) for choice in choices):
                fail(f"{place}: expected one of {', '.join(map(repr, choices))}, found {value!r}")
            return value
        if origin is tuple:
            if not isinstance(value, list):
                fail(f"{place}: expected a list, found {value!r}")
            item_kind = typing.get_args(kind)[0]
            return tuple(read(item_kind, item, f"{place}[{i}]") for i, item in enumerate(value))
        if origin in (dict, Mapping):
            if not isinstance(value, dict):
                fail(f"{place}: expected a table, found {value!r}")
            item_kind = typing.get_args(kind)[1]
            return {str(key): read(item_kind, item, f"{place}.{key}") for key, item in value.items()}
        if dataclasses.is_dataclass(kind):
            return read_fields(typing.cast("type[Any]", kind), value, place)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if type(value) is not kind:
            fail(f"{place}: expected {_PLAIN_NAMES[kind]}, found {value!r}")
        return value

    def read_fields(declared: type[Any], value: object, place: str) -> Any:
        if not isinstance(value, dict):
            fail(f"{place}: expected a table, found {value!r}")
        fields = {field.name: field for field in dataclasses.fields(declared)}
        for key in value:
            if key not in fields:
                close = difflib.get_close_matches(str(key), fields, n=1)
                meant = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(fields)}"
                fail(f"{place}: unknown key {key!r}{meant}")
        kinds = typing.get_type_hints(declared)
        given: dict[str, Any] = {}
        for name, field in fields.items():
            if name in value:
                given[name] = read(kinds[name], value[name], f"{place}: {name}")
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                fail(f"{place}: key {name!r} is missing")
        return declared(**given)

    return typing.cast("Record", read_fields(record, data, where))


def write_record(record: object) -> Any:
    """The plain data of a frozen dataclass, ready for `json.dumps`; the inverse of `read_record`."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: write_record(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, tuple | list):
        return [write_record(item) for item in record]
    if isinstance(record, dict):
        return {key: write_record(item) for key, item in record.items()}
    return record
