"""An answer that is broken into lines between words while it is written.

A terminal breaks a line wherever it is full, in the middle of a word. Here a word is held until the next one
begins, and goes to a new line when the old one has no room for it. Lines of code, of tables, and those that
are indented as code, stay as they are: who copies them wants what the model wrote.
"""

import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator

from edgephi.cli.show.lines.columns import columns_of, is_wide

_FENCES = ("```", "~~~")
_CODE_INDENT = 4
_TABLE = "|"
_MARKER = re.compile(r"[-*+•>]|\d{1,3}[.)]")
_LEAST_ROOM = 20  # in a line, for what is indented
_JOINER = "\u200d"


def terminal_columns() -> int:
    """The columns of the terminal, as they are now."""
    return shutil.get_terminal_size().columns


class WrappedText:
    """A text that comes in pieces, broken between words at `columns()`.

    Between wide letters, as Chinese has them, a line may end too, but not before what closes something.
    """

    def __init__(self, columns: Callable[[], int] = terminal_columns) -> None:
        self._columns = columns
        self._word = ""
        self._space = ""
        self._column = 0
        self._is_start = True  # nothing of the line is out yet
        self._indent = 0  # of the lines that follow in the same paragraph
        self._is_kept = False
        self._in_fence = ""

    def add(self, piece: str) -> str:
        """What can be shown now that `piece` has come."""
        return "".join(self._letters(piece))

    def end(self) -> str:
        """What is left to show when no piece follows; the line is not ended."""
        return self._end_word() + (self._space if self._is_kept else "")

    def _letters(self, piece: str) -> Iterator[str]:
        for letter in piece:
            if letter == "\n":
                yield self._end_word() + (self._space if self._is_kept else "") + "\n"
                self._begin_line()
            elif letter in " \t":
                if self._word:
                    yield self._end_word()
                self._space += letter
            else:
                if self._word and self._may_break(self._word, letter):
                    yield self._end_word()
                self._word += letter
                if self._is_kept and not self._is_start:
                    yield self._end_word()

    def _begin_line(self) -> None:
        self._space, self._column, self._indent = "", 0, 0
        self._is_start, self._is_kept = True, False

    def _may_break(self, word: str, letter: str) -> bool:
        """Whether a line may end between the letters of a word and the one that follows."""
        if not (is_wide(letter) or is_wide(word[-1])) or word[-1] == _JOINER or columns_of(letter) == 0:
            return False
        return not _closes(letter) and not _opens(word[-1])

    def _end_word(self) -> str:
        """The word that is held, behind its space or on a line of its own."""
        word, space = self._word, self._space
        if not word:
            return ""
        self._word = self._space = ""
        if self._is_start:
            self._is_start = False
            self._begin_paragraph(word, space)
            self._column = columns_of(space + word)
            return space + word
        width = self._columns()
        needed = columns_of(space + word)
        if self._is_kept or self._column + needed <= width:
            self._column += needed
            return space + word
        indent = self._indent if self._indent + _LEAST_ROOM <= width else 0
        self._column = indent + columns_of(word)
        if self._column > width:  # longer than a line: the terminal breaks it
            self._column = self._column % width or width
        return "\n" + " " * indent + word

    def _begin_paragraph(self, word: str, space: str) -> None:
        """See from its first word what kind of line this is."""
        fence = next((fence for fence in _FENCES if word.startswith(fence)), "")
        marker = len(word) + 1 if _MARKER.fullmatch(word) else 0
        is_indented = not marker and ("\t" in space or len(space) >= _CODE_INDENT)
        self._is_kept = bool(self._in_fence or fence or is_indented or word.startswith(_TABLE))
        if fence and self._in_fence in ("", fence):
            self._in_fence = "" if self._in_fence else fence
        self._indent = len(space) + marker


def _closes(letter: str) -> bool:
    """Whether a mark belongs to what is before it: a full stop, a comma, a closing bracket."""
    return unicodedata.category(letter) in ("Pe", "Pf", "Po", "Lm")


def _opens(letter: str) -> bool:
    return unicodedata.category(letter) in ("Ps", "Pi")
