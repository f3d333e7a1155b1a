"""What `/set` of `edgephi chat` changes: the numbers in `Options`, by the names of the command line."""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edgephi.errors import UsageError

if TYPE_CHECKING:
    from edgephi.runtime.options import Options

_KINDS: Mapping[str, type[int] | type[float]] = {
    "int": int,
    "int | None": int,
    "float": float,
    "float | None": float,
}
_NOT_SHOWN = ("logprobs",)  # a chat has no place for them
_DEFAULT = "-"


def settings(options: "Options") -> Iterator[tuple[str, str]]:
    """Name and value of each setting, for people."""
    for field, _ in _fields(options):
        value = getattr(options, field.name)
        yield field.name.replace("_", "-"), "as by default" if value is None else f"{value:g}"


def changed(options: "Options", name: str, text: str) -> "Options":
    """The options with another value for a setting; "-" is its default.

    Raises UsageError for a name that is none, and for a value that makes no sense.
    """
    fields = {field.name: (field, kind) for field, kind in _fields(options)}
    own = name.replace("-", "_")
    if own not in fields:
        close = difflib.get_close_matches(own, fields, n=1)
        meant = f"; did you mean {close[0].replace('_', '-')}?" if close else ""
        raise UsageError(f"expected a setting, found {name!r}{meant}", hint="/set shows all of them")
    field, kind = fields[own]
    try:
        value = field.default if text == _DEFAULT else kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise UsageError(
            f"{name}: expected {what}, found {text!r}", hint=f"/set {name} {_DEFAULT} takes the default"
        ) from None
    changes: dict[str, Any] = {own: value}
    return dataclasses.replace(options, **changes)


def _fields(options: "Options") -> Iterator[tuple["dataclasses.Field[object]", type[int] | type[float]]]:
    """The fields that hold a number, and its kind."""
    for field in dataclasses.fields(options):
        if field.type in _KINDS and field.name not in _NOT_SHOWN:
            yield field, _KINDS[str(field.type)]
