"""`state.json`: what a store holds for certain. It is replaced whole; the links follow it.

`current` here is the generation that was committed. While another is on trial, the link `current` already
leads to that one; if the process that tries it dies, `edgephi.store.recover` turns the link back.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgephi.commands import edgephi_command
from edgephi.errors import BadInputError
from edgephi.records import read_record, write_record
from edgephi.store.disk.durable import replace_file
from edgephi.store.disk.layout import Layout

SCHEMA = "edgephi.store/1"
Role = Literal["current", "previous", "other"]
"""What a generation is to its store."""

_CHECKSUM = "checksum"


class BadStateError(BadInputError):
    """`state.json` is there and cannot be read. `edgephi.store.recover` writes it again from the links."""


@dataclass(frozen=True)
class Trial:
    """A generation that `current` may lead to although it is not committed, and the process that tries it."""

    digest: str
    pid: int
    boot_id: str


@dataclass(frozen=True)
class State:
    """`unproven`: generations that were installed for another machine and have never generated there.

    `damaged`: objects by sha256, and the offsets of their chunks that the last scrub found changed.
    `damaged_environments`: those in which it found something changed.
    `sequence_floor` and `security_floor`, by the name of a bundle: no lower one is installed.
    `keys_required`: there has been a key, and nobody has said that bundles without one are taken again; so
    keys that are lost close the store and do not open it.
    """

    schema: str = SCHEMA
    current: str | None = None
    previous: str | None = None
    trial: Trial | None = None
    unproven: tuple[str, ...] = ()
    damaged: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    damaged_environments: tuple[str, ...] = ()
    sequence_floor: Mapping[str, int] = field(default_factory=dict)
    security_floor: Mapping[str, int] = field(default_factory=dict)
    keys_required: bool = False


def role_of(state: State, digest: str) -> Role:
    """What a generation is to the store with that state."""
    if digest == state.current:
        return "current"
    return "previous" if digest == state.previous else "other"


def read_state(layout: Layout) -> State:
    """The state of a store; that of an empty one where there is none yet.

    Raises BadStateError when it was changed by something else than `write_state`, and BadInputError when
    another version of edgephi wrote it.
    """
    try:
        data = layout.state.read_bytes()
    except FileNotFoundError:
        return State()
    hint = edgephi_command("status", layout.root)
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError):
        plain = None
    if not isinstance(plain, dict):
        raise BadStateError(f"{layout.state}: expected a JSON object, found something else", hint=hint)
    if plain.pop(_CHECKSUM, None) != _checksum(plain):
        raise BadStateError(f"{layout.state}: its checksum does not match what it says", hint=hint)
    if plain.get("schema") != SCHEMA:
        raise BadInputError(
            f"{layout.state}: expected schema {SCHEMA!r}, found {plain.get('schema')!r}",
            hint="use the edgephi version that wrote this store",
        )
    return read_record(State, plain, where=str(layout.state), error=BadStateError, hint=hint)


def write_state(layout: Layout, state: State) -> None:
    """Replace the state of a store, in one step and down to the disk."""
    plain = write_record(state)
    plain[_CHECKSUM] = _checksum(plain)
    replace_file(layout.state, (json.dumps(plain, indent=2) + "\n").encode())


def change_state(layout: Layout, **changes: object) -> State:
    """Replace fields of the state of a store. Returns the new one; raises as `read_state` does."""
    state = dataclasses.replace(read_state(layout), **changes)  # type: ignore[arg-type]
    write_state(layout, state)
    return state


def _checksum(plain: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
