"""Whose bundles a store takes from now on: what `edgephi trust` does, on this machine or over ssh.

The state of the store remembers that there is a key. A key is on the disk before the state says so, and the
state says that none is needed before the last key goes: whatever dies in between leaves the store closed.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from edgephi.commands import edgephi_command
from edgephi.errors import StoreBusyError, UsageError
from edgephi.store.disk.device_errors import device_errors
from edgephi.store.disk.durable import make_folder
from edgephi.store.disk.layout import Layout, is_store
from edgephi.store.disk.lock import StoreLock
from edgephi.store.place import check_root
from edgephi.store.recover import read_settled_state, recover_locked
from edgephi.store.state import BadStateError, State, change_state, write_state
from edgephi.store.trust.trusted_keys import (
    TrustedKey,
    add_key,
    decode_key_file,
    find_key,
    is_last,
    read_trusted_keys,
    remove_key,
)
from edgephi.store.trust.vouching import Unvouched, unvouched

_LOCK_WAIT_SECONDS = 10.0


@dataclass(frozen=True)
class KeyFacts:
    """A trusted key as people know it: its name in the store, and the sha256 of its DER."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class KeyChange:
    """A key that came or went, and the generations that no key vouches for now. What is active runs on."""

    name: str
    fingerprint: str
    unvouched: tuple[Unvouched, ...]


@dataclass(frozen=True)
class Trusted:
    """All keys of a store, by name; without any, it takes every bundle."""

    keys: tuple[KeyFacts, ...]


def trust_key(root: Path, file_name: str, data: bytes) -> KeyChange:
    """Have the store at `root`, which may be new, trust the key in a file of that name and content.

    Raises BadInputError when it is no key, UsageError when the name is taken or `root` is something else.
    """
    new = decode_key_file(Path(file_name), data)
    check_root(root)
    layout = Layout(root)
    with device_errors(root):
        make_folder(layout.root)
        make_folder(layout.trust)
        added = add_key(layout.trust, new)
        # Who is at work for longer than that notes it, or whoever comes next.
        with contextlib.suppress(StoreBusyError), _locked(layout):
            _remember(layout, keys_required=True)
        return _changed(layout, added)


def trusted(root: Path) -> Trusted:
    """The keys that the store at `root` trusts.

    Raises UsageError when there is no store, BadInputError when its keys are lost.
    """
    layout = _layout(root)
    with device_errors(root):
        required = read_settled_state(layout).keys_required
        return Trusted(tuple(map(_facts, read_trusted_keys(layout.trust, required=required))))


def distrust_key(root: Path, which: str, *, also_the_last: bool) -> KeyChange:
    """Have the store at `root` trust a key no longer; raises as `remove_key` does.

    For the last key, StoreBusyError too while another process changes the store.
    """
    layout = _layout(root)
    with device_errors(root):
        if not also_the_last:
            return _changed(layout, remove_key(layout.trust, which, also_the_last=False))
        with _locked(layout):
            found = find_key(layout.trust, which)
            if is_last(layout.trust, found):
                _remember(layout, keys_required=False)
            return _changed(layout, remove_key(layout.trust, which, also_the_last=True))


def require_no_key(root: Path) -> None:
    """Have the store at `root`, whose keys are lost or were removed by hand, take every bundle again.

    Raises UsageError while it has one, BadInputError when that cannot be told.
    """
    layout = _layout(root)
    with device_errors(root), _locked(layout):
        keys = read_trusted_keys(layout.trust)
        if keys:
            raise UsageError(
                f"{layout.trust}: expected no key, found {', '.join(map(str, keys))}",
                hint=f"name the key: `{edgephi_command('trust', 'remove', 'ROOT', keys[0].name, '--last')}`",
            )
        _remember(layout, keys_required=False)


def _layout(root: Path) -> Layout:
    """The layout of a store that must be there, or of its keys: a mistyped ROOT has no keys either."""
    check_root(root)
    layout = Layout(root)
    if not is_store(root) and not os.path.lexists(layout.trust) and not os.path.lexists(layout.state):
        raise UsageError(f"{root}: expected a store, found none", hint="give the folder that you flash to")
    return layout


def _locked(layout: Layout) -> StoreLock:
    return StoreLock.take(layout, "trust", wait_seconds=_LOCK_WAIT_SECONDS)


def _remember(layout: Layout, *, keys_required: bool) -> None:
    """Note whether the store needs keys, for whoever holds its lock. It may hold nothing else yet."""
    if is_store(layout.root):
        recover_locked(layout)
    try:
        change_state(layout, keys_required=keys_required)
    except BadStateError:  # of a store that has nothing yet
        write_state(layout, State(keys_required=keys_required))


def _changed(layout: Layout, key: TrustedKey) -> KeyChange:
    return KeyChange(key.name, key.key.fingerprint, unvouched(layout))


def _facts(key: TrustedKey) -> KeyFacts:
    return KeyFacts(key.name, key.key.fingerprint)
