"""Reading JSON that a stranger wrote: each key is checked for type and size before anybody uses its value."""

import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgephi.checkpoint.git_lfs import check_no_pointer
from edgephi.commands import edgephi_command
from edgephi.errors import BadCheckpointError, NotSupportedError

LARGEST_SIZE = 1 << 24
LARGEST_CONTEXT = 1 << 31
LARGEST_DEPTH = 1024  # layers
HINT_SUPPORTED = f"`{edgephi_command('recipes')}` lists the models that edgephi builds"

_HINT = "give a Phi-3-family checkpoint as its makers published it"
_LARGEST_CONFIG_BYTES = 16 << 20


@dataclass(frozen=True)
class ConfigKeys:
    """One JSON object under suspicion: each method reads a key and raises when it is not what it must be."""

    data: Mapping[str, Any]
    where: str

    def fail(self, key: str, expected: str, found: object) -> typing.Never:
        """Raise BadCheckpointError for the value of `key`."""
        shown = repr(found)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise BadCheckpointError(f"{self.where}: {key}: expected {expected}, found {shown}", hint=_HINT)

    def refuse(self, key: str, supported: object) -> typing.Never:
        """Raise NotSupportedError: the value of `key` is legal, but edgephi builds `supported` only."""
        raise NotSupportedError(
            f"{self.where}: {key}: edgephi supports {supported!r}, found {self.data.get(key)!r}",
            hint=HINT_SUPPORTED,
        )

    def whole(
        self, key: str, *, default: int | None = None, smallest: int = 1, largest: int = LARGEST_SIZE
    ) -> int:
        """A whole number from `smallest` to `largest`."""
        value = self.data.get(key)
        if value is None and default is not None:
            return default
        expected = f"a whole number from {smallest} to {largest}"
        if value is None:
            self.fail(key, expected, "nothing" if key not in self.data else None)
        if type(value) is not int or not smallest <= value <= largest:
            self.fail(key, expected, value)
        return value

    def context(self) -> int:
        """How many tokens the model takes: enough for a prompt and an answer."""
        return self.whole("max_position_embeddings", smallest=2, largest=LARGEST_CONTEXT)

    def number(self, key: str, *, default: float | None = None) -> float:
        """A finite number above zero."""
        value: Any = self.data.get(key)
        if value is None and default is not None:
            return default
        if type(value) not in (int, float) or not 0 < value < 1e12:
            self.fail(key, "a finite number above 0", value)
        return float(value)

    def numbers(self, key: str, *, count: int) -> tuple[float, ...]:
        """A list of `count` finite numbers above zero."""
        values = self.data.get(key)
        if not isinstance(values, list) or len(values) != count:
            found = f"{len(values)} of them" if isinstance(values, list) else values
            self.fail(key, f"a list of {count} numbers", found)
        for place in range(count):
            if type(values[place]) not in (int, float) or not 0 < values[place] < 1e12:
                self.fail(f"{key}[{place}]", "a finite number above 0", values[place])
        return tuple(float(value) for value in values)

    def flag(self, key: str) -> bool:
        """True or false; false when the key is missing."""
        value = self.data.get(key)
        if value is not None and type(value) is not bool:
            self.fail(key, "true or false", value)
        return bool(value)

    def token_ids(self, key: str, vocabulary_size: int, *, none: int | None = None) -> list[int]:
        """The ids of `key`, which is an id, a list of ids or null; each inside the vocabulary.

        `none` is a number that stands for null.
        """
        value = self.data.get(key)
        ids = value if isinstance(value, list) else [] if value is None or value == none else [value]
        for id_ in ids:
            if type(id_) is not int or not 0 <= id_ < vocabulary_size:
                self.fail(key, f"token ids below vocab_size = {vocabulary_size}", id_)
        return ids


def read_json_object(file: Path, *, where: str) -> Mapping[str, Any]:
    """The JSON object in `file`. Raises BadCheckpointError when there is none."""
    if not file.is_file():
        raise BadCheckpointError(f"{where}: expected this file, found none", hint=_HINT)
    if file.stat().st_size > _LARGEST_CONFIG_BYTES:
        raise BadCheckpointError(
            f"{where}: expected at most {_LARGEST_CONFIG_BYTES} bytes, found {file.stat().st_size}",
            hint=_HINT,
        )
    raw = file.read_bytes()
    check_no_pointer(raw, where, "JSON")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as cause:
        raise BadCheckpointError(f"{where}: expected JSON, found {cause}", hint=_HINT) from None
    if not isinstance(data, dict):
        raise BadCheckpointError(f"{where}: expected a table, found {type(data).__name__}", hint=_HINT)
    return data
