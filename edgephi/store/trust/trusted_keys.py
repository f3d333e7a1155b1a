"""The folder ROOT/trust: the public keys of those whose bundles a store takes.

Whatever cannot be understood in that folder is an error and never ignored: a key that is quietly not read
would open the store to bundles that nobody signed. So would a folder that is lost, such as a link to a disk
that is not mounted: the state of the store remembers that there are keys.
"""

import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from edgephi.commands import edgephi_command
from edgephi.errors import BadInputError, UsageError
from edgephi.store.disk import durable
from edgephi.store.trust.public_key import LARGEST_FILE_BYTES, SUFFIX, PublicKey, decode_public_key

_KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_SHOWN_DIGITS = 12
_FEWEST_DIGITS = 8
# What is wrong with the folder, and not with the disk that it is on.
_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP)
_NO_FILE = (*_NO_FOLDER, errno.EISDIR, errno.ENXIO)


@dataclass(frozen=True)
class TrustedKey:
    """A key of a store, by the name of its file without `.pub`."""

    name: str
    key: PublicKey

    def __str__(self) -> str:
        """Name and beginning of the fingerprint, for messages."""
        return f"{self.name} ({self.key.fingerprint[:_SHOWN_DIGITS]}…)"


def read_trusted_keys(folder: Path, *, required: bool = False) -> tuple[TrustedKey, ...]:
    """The keys of a store, sorted by name; none when `folder` is not there.

    `required`: the store has had keys, so that none is an error. Raises BadInputError for that, and for
    whatever is there and is no folder of keys.
    """
    names = _names(folder)
    if not names and required:
        what = "an empty folder" if folder.is_dir() else "no such folder"
        raise BadInputError(
            f"{folder}: expected the keys that this store has had, found {what}",
            hint=f"until they are there again it takes no bundle: `{_add_command()}`",
        )
    return tuple(_read_kept(folder / name) for name in names)


def has_keys(folder: Path) -> bool:
    """Whether a key is in the folder, as far as the names of its files tell. Raises nothing about them."""
    try:
        return any(name.endswith(SUFFIX) for name in _names(folder))
    except BadInputError:
        return False


def _names(folder: Path) -> list[str]:
    """The names of the files of keys. Raises BadInputError when something else than a folder is there."""
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - names, not paths
    except OSError as cause:
        if cause.errno not in _NO_FOLDER:
            raise
        if cause.errno == errno.ENOENT and not folder.is_symlink():
            return []
        found = "a link that leads nowhere" if cause.errno == errno.ENOENT else cause.strerror
        raise BadInputError(
            f"{folder}: expected a folder of keys, found {found}",
            hint=f"put it right; or move it away, and add the keys again: `{_add_command()}`",
        ) from None
    # A name with a dot in front is what `add_key` leaves when the power is cut.
    return [name for name in names if not name.startswith(".")]


def _read_kept(path: Path) -> TrustedKey:
    """The key in a file of a store. Raises BadInputError."""
    try:
        return read_key_file(path)
    except BadInputError as cause:
        raise BadInputError(
            cause.message,
            hint=f"move it elsewhere, or put it right: nothing but keys, called NAME{SUFFIX} with letters, "
            "digits, '.', '_' and '-', may lie there, or the store takes no bundle",
        ) from None


def _add_command() -> str:
    return edgephi_command("trust", "add", "ROOT", "NAME.pub")


def read_key_file(path: Path) -> TrustedKey:
    """The key in file `path`, called as it would be in a store. Raises BadInputError.

    Also for a link that leads nowhere, and a file that we may not read: whoever only looks at the store can
    say then that it is closed, and why.
    """
    hint = "give NAME.pub, which can be read; what is no key belongs elsewhere"
    try:
        with open(path, "rb", opener=_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadInputError(f"{path}: expected a file with a public key, found none", hint=hint)
            data = file.read(LARGEST_FILE_BYTES + 1)
    except OSError as cause:
        if cause.errno not in _NO_FILE:
            raise
        found = f"found that it cannot be read: {cause.strerror}"
        raise BadInputError(f"{path}: expected a file with a public key, {found}", hint=hint) from None
    return decode_key_file(path, data)


def _at_once(name: str, flags: int) -> int:
    """Open a file; a pipe would wait for ever."""
    return os.open(name, flags | os.O_NONBLOCK)


def decode_key_file(path: Path, data: bytes) -> TrustedKey:
    """The key in the bytes of a file called `path`. Raises BadInputError."""
    key = decode_public_key(data, where=str(path))
    if path.suffix != SUFFIX or not _KEY_NAME.fullmatch(path.stem):
        raise BadInputError(
            f"{path}: expected a key's file to be called NAME{SUFFIX}, found {path.name!a}",
            hint="rename it: letters, digits, '.', '_' and '-'; what is not a key belongs elsewhere",
        )
    return TrustedKey(path.stem, key)


def add_key(folder: Path, new: TrustedKey) -> TrustedKey:
    """Trust a key from now on, also after a power cut; as which it is trusted.

    A key that is there already, under whatever name, stays. Raises UsageError when the name is taken.
    """
    for known in read_trusted_keys(folder):
        if known.key == new.key:
            return known
        if known.name == new.name:
            raise UsageError(
                f"{folder}: expected no key called {new.name!r} yet, found {known}",
                hint="rename the new key's file, or remove the old key afterwards and add the new one now",
            )
    hidden = folder / f".{new.name}{SUFFIX}"
    durable.write_file(hidden, new.key.pem)
    durable.rename(hidden, folder / f"{new.name}{SUFFIX}")
    return new


def find_key(folder: Path, which: str) -> TrustedKey:
    """The key called `which`, or whose fingerprint begins so. Raises UsageError when there is no such key."""
    keys = read_trusted_keys(folder)
    found = [known for known in keys if known.name == which]
    if not found and len(which) >= _FEWEST_DIGITS:
        found = [known for known in keys if known.key.fingerprint.startswith(which.lower())]
    if len({known.key for known in found}) != 1:
        listed = ", ".join(map(str, keys)) or "none"
        raise UsageError(
            f"{folder}: expected the name or fingerprint of one of its keys ({listed}), found {which!r}",
            hint=f"`{edgephi_command('trust', 'list', 'ROOT')}` shows them",
        )
    return found[0]


def remove_key(folder: Path, which: str, *, also_the_last: bool) -> TrustedKey:
    """Trust a key no longer: `which` is its name or the beginning of its fingerprint. Returns it.

    It goes under all of its names: its file may have been put there by hand once more. Raises UsageError when
    there is no such key, or when it is the last one and that was not said.
    """
    found = find_key(folder, which)
    if is_last(folder, found) and not also_the_last:
        raise UsageError(
            f"{folder}: expected another key to stay, found that {found} is the last: "
            "without a key, bundles that nobody signed are taken",
            hint="add the new key first, or say --last if that is what you want",
        )
    for known in read_trusted_keys(folder):
        if known.key == found.key:
            durable.remove(folder / f"{known.name}{SUFFIX}")
    return found


def is_last(folder: Path, key: TrustedKey) -> bool:
    """Whether the store trusts no other key, under whatever names it has this one."""
    return all(known.key == key.key for known in read_trusted_keys(folder))
