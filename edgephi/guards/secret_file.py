"""Files that hold a secret: read only when nobody else can read them, as ssh does with its keys.

One way for all: the secret keys that sign bundles, the key of an API, the passwords of registries.
"""

import os
import stat
from pathlib import Path

from edgephi.commands import shell_command
from edgephi.errors import BadInputError, from_os_error

MOST_BYTES = 1 << 20
_OTHERS = stat.S_IRWXO
_GROUP_AND_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_secret_file(path: Path, what: str, *, group_may: bool = False) -> bytes:
    """The bytes of a file with a secret; `what` calls it by name in an error, such as "a secret key".

    `group_may`: the file's group may read it, as that of a service; systemd's credentials look like that. A
    pipe is read as it is: only who has opened it for us can read it. Raises BadInputError when others can
    read or change the file, or it is larger than any secret, and what an OSError means.
    """
    try:
        with path.open("rb") as file:
            # Of the open file: what the path names may be another one by now.
            _check(path, what, os.fstat(file.fileno()), group_may=group_may)
            data = file.read(MOST_BYTES + 1)
    except OSError as cause:
        raise from_os_error(cause, place=path) from None
    if len(data) > MOST_BYTES:
        raise BadInputError(
            f"{path}: expected {what}, found a file of more than {MOST_BYTES} bytes", hint="give another file"
        )
    return data


def check_secret_file(path: Path, what: str, *, group_may: bool = False) -> None:
    """Raise BadInputError when others can read a file that somebody else is going to read."""
    try:
        facts = path.stat()
    except OSError as cause:
        raise from_os_error(cause, place=path) from None
    _check(path, what, facts, group_may=group_may)


def _check(path: Path, what: str, facts: os.stat_result, *, group_may: bool) -> None:
    if not stat.S_ISREG(facts.st_mode):
        return
    mode = stat.S_IMODE(facts.st_mode)
    if mode & (_OTHERS if group_may else _GROUP_AND_OTHERS):
        who = "only its owner and group" if group_may else "only its owner"
        raise BadInputError(
            f"{path}: expected {what} that {who} can read (mode {'0640' if group_may else '0600'}), "
            f"found mode {mode:04o}",
            hint=f"`{shell_command('chmod', '600', path)}`; if others may have read it, make a new one",
        )
