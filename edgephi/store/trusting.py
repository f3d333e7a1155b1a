"""Whose bundles a store takes from now on: what `edgephi trust` does, on this machine or over ssh."""

from dataclasses import dataclass
from pathlib import Path

from edgephi.errors import UsageError
from edgephi.store.device_errors import device_errors
from edgephi.store.durable import make_folder
from edgephi.store.layout import Layout
from edgephi.store.place import check_root
from edgephi.store.trusted_keys import TrustedKey, add_key, decode_key_file, read_trusted_keys, remove_key


@dataclass(frozen=True)
class KeyFacts:
    """A trusted key as people know it: its name in the store, and the sha256 of its DER."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class Trusted:
    """All keys of a store, by name; without any, it takes every bundle."""

    keys: tuple[KeyFacts, ...]


def trust_key(root: Path, file_name: str, data: bytes) -> KeyFacts:
    """Have the store at `root`, which may be new, trust the key in a file of that name and content.

    Raises BadInputError when it is no key, UsageError when the name is taken or `root` is something else.
    """
    new = decode_key_file(Path(file_name), data)
    check_root(root)
    layout = Layout(root)
    with device_errors(root):
        make_folder(layout.root)
        make_folder(layout.trust)
        return _facts(add_key(layout.trust, new))


def trusted(root: Path) -> Trusted:
    """The keys that the store at `root` trusts. Raises UsageError when there is none."""
    return Trusted(tuple(map(_facts, read_trusted_keys(_folder(root)))))


def distrust_key(root: Path, which: str, *, also_the_last: bool) -> KeyFacts:
    """Have the store at `root` trust a key no longer; raises as `remove_key` does."""
    with device_errors(root):
        return _facts(remove_key(_folder(root), which, also_the_last=also_the_last))


def _folder(root: Path) -> Path:
    """The folder of keys of a store that must be there: a mistyped ROOT has no keys either."""
    check_root(root)
    folder = Layout(root).trust
    if not folder.is_dir():
        raise UsageError(f"{root}: expected a store, found none", hint="give the folder that you flash to")
    return folder


def _facts(key: TrustedKey) -> KeyFacts:
    return KeyFacts(key.name, key.key.fingerprint)
