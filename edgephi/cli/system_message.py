"""A system message as the command line takes it: its text, or @FILE for what stands in a file."""

from pathlib import Path

from edgephi.cli.terminal.utf8 import checked_utf8
from edgephi.cli.text_file import read_text


def system_message(text: str | None) -> str | None:
    """The message that --system asks for; None where it was not given, and empty where none is wanted.

    Raises BadInputError for a file that cannot be read, and for what is no UTF-8.
    """
    if text is None or not text.startswith("@"):
        return None if text is None else checked_utf8(text, "system message").strip()
    return read_text(Path(text[1:])).strip()
