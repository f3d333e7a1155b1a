"""How many columns of a terminal a text takes."""

import unicodedata

_ON_THE_LETTER_BEFORE = frozenset(("Mn", "Me", "Cf"))  # accents, and joiners between parts of an emoji

_SKIN_TONES = frozenset("\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")


def columns_of(text: str) -> int:
    """Columns of `text` on a terminal: wide characters take two, combining marks and joiners none."""
    return len(text) if text.isascii() else sum(map(_columns_of_letter, text))


def is_wide(letter: str) -> bool:
    """Whether a letter takes two columns, as those of Chinese, Japanese and Korean and most emojis do."""
    return not letter.isascii() and unicodedata.east_asian_width(letter) in "WF"


def _columns_of_letter(letter: str) -> int:
    if unicodedata.category(letter) in _ON_THE_LETTER_BEFORE or letter in _SKIN_TONES:
        return 0
    return 2 if is_wide(letter) else 1
