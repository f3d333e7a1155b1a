"""Text of strangers, shown so that it cannot steer the terminal it is shown on. Standard library only.

A name in a manifest, an error of a box or a registry and a model's own answer can hold what clears a screen,
sets a window's title, answers in the user's place, or makes a line read backwards (U+202E). As `ls` and `git`
do, such a letter is shown as a backslash and its code.
"""

# In an answer these belong to the text: emoji of several parts, Persian, and the direction of single letters.
_JOINERS = "\u200c\u200d\u200e\u200f\u061c\u00ad"
_LINE_LETTERS = "\n\t"
_BASIC_PLANE = 0xFFFF


def visible(text: str) -> str:
    """The text in one line whose letters all show; what a terminal would obey is an escape."""
    return text if text.isprintable() else "".join(map(_shown, text))


def visible_lines(text: str) -> str:
    """The same for text of several lines: tabs and the ends of lines stay."""
    return _kept(text, _LINE_LETTERS)


def visible_json(document: str) -> str:
    """A JSON document of the same value, whose letters all show: JSON has escapes of its own."""
    if document.isprintable():
        return document
    return "".join(
        letter if letter.isprintable() or letter in _LINE_LETTERS else _in_json(letter) for letter in document
    )


class VisibleAnswer:
    """What a model writes, piece by piece, for a terminal.

    Lines may end as on Windows, and the two letters of such an end may lie in two pieces; a carriage return
    alone would write over what stands there already, and is shown.
    """

    def __init__(self) -> None:
        self._held = ""

    def add(self, piece: str) -> str:
        """What to show now."""
        text = self._held + piece
        self._held = "\r" if text.endswith("\r") else ""
        return _kept(text.removesuffix("\r").replace("\r\n", "\n"), _LINE_LETTERS + _JOINERS)

    def end(self) -> str:
        """What is left to show when no piece follows."""
        held, self._held = self._held, ""
        return visible(held)


def _kept(text: str, letters: str) -> str:
    """The text whose letters show, but for some that stay as they are."""
    if text.isprintable():
        return text
    return "".join(letter if letter in letters else _shown(letter) for letter in text)


def _shown(letter: str) -> str:
    return letter if letter.isprintable() else ascii(letter)[1:-1]


def _in_json(letter: str) -> str:
    code = ord(letter)
    if code <= _BASIC_PLANE:
        return f"\\u{code:04x}"
    high, low = divmod(code - _BASIC_PLANE - 1, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
