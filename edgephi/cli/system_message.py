"""A system message as the command line takes it: its text, or @FILE for what stands in a file."""

from pathlib import Path

from edgephi.cli.terminal.utf8 import checked_utf8
from edgephi.errors import BadInputError, from_os_error


def system_message(text: str | None) -> str | None:
    """The message that --system asks for; None where it was not given, and empty where none is wanted.

    Raises BadInputError for a file that cannot be read, and for what is no UTF-8.
    """
    if text is None or not text.startswith("@"):
        return None if text is None else checked_utf8(text, "system message").strip()
    file = Path(text[1:])
    try:
        return utf8_text(file.read_bytes(), file).removeprefix("\ufeff").strip()
    except OSError as cause:
        raise from_os_error(cause, place=file) from None


def utf8_text(data: bytes, file: Path) -> str:
    """The text of a file. Raises BadInputError when it is none."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadInputError(
            f"{file}: expected UTF-8 text, found other bytes", hint="convert it with iconv"
        ) from None
