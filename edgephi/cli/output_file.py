"""Writing the file that a command was asked for: it is there whole, or what was there before still is."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from edgephi.errors import from_os_error


def write_output(file: Path, content: str | bytes, *, mode: int | None = None) -> None:
    """Write `content` to `file`, a text as UTF-8, in one step.

    A link stays one, and what it leads to is written. What is no plain file, such as /dev/stdout, cannot be
    replaced and is written as it is. `mode` is the file's, whatever the umask; None leaves the one that it
    has, and gives a new file the usual one. Raises what `from_os_error` makes of an OSError, `file` named.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        target = Path(os.path.realpath(file))
        if target.exists() and not target.is_file():
            with target.open("wb") as stream:
                stream.write(data)
            return
        if target.exists():
            if not os.access(target, os.W_OK):  # replacing it would need no leave but the folder's
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            mode = mode or target.stat().st_mode & 0o777
        with _partial(target.parent) as partial:
            _write_new(partial, data, mode)
            partial.replace(target)
    except OSError as cause:
        # The name in it may be the unfinished file's, of which nobody has heard.
        raise from_os_error(OSError(cause.errno, cause.strerror), place=file) from None


@contextlib.contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """A name in `folder` for an unfinished file, which goes unless it got another name."""
    # Not after the file's own: that may be as long as a name can be, and two may write it at once.
    partial = folder / f".{secrets.token_hex(8)}.partial"
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _write_new(path: Path, data: bytes, mode: int | None) -> None:
    """Write a new file, down to the disk: else a power cut could leave the name and no text."""
    with path.open("xb") as stream:
        if mode is not None:
            path.chmod(mode)
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
