"""Texts in files that a command line names: a system message, a schema, a grammar, tools, a conversation."""

from pathlib import Path

from edgephi.errors import BadInputError, from_os_error

MOST_BYTES = 1 << 24


def read_text(file: Path, *, most_bytes: int = MOST_BYTES) -> str:
    """The text of a file, or of a pipe, without a byte order mark.

    No more than `most_bytes` are read, for a device or a pipe may never end. Raises BadInputError for one
    that cannot be read, is longer, or is no UTF-8.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(most_bytes + 1)
    except OSError as cause:
        raise from_os_error(cause, place=file) from None
    if len(data) > most_bytes:
        raise BadInputError(
            f"{file}: expected at most {most_bytes} bytes of text, found more", hint="give another file"
        )
    return utf8_text(data, file).removeprefix("\ufeff")


def utf8_text(data: bytes, file: Path) -> str:
    """The text of what was read from a file. Raises BadInputError when it is none."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadInputError(
            f"{file}: expected UTF-8 text, found other bytes", hint="convert it with iconv"
        ) from None
