"""The text that shows which channels of a model matter: passages of our own, or the user's.

Nearly half of ours is English: prose, instructions, chats and commands, as an average deployment sees them.
The rest is code, data and figures, and over twenty other languages. No sentence of it is in the evaluation
text: a certificate must not be measured on what the quantiser has seen (a test holds them apart).
"""

from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from edgephi.reference.passages import Encode, Render, TokenPassage, shipped_passages
from edgephi.reference.token_shares import divide
from edgephi.reference.user_text import hash_of, read_user_text, user_passages

CALIBRATION_TEXT = "edgephi-calibration-1"
"""Name and version of our passages, for the manifest."""

PASSAGE_TOKENS = 100
"""How long a passage is at least, where the text and the context allow it."""


@dataclass(frozen=True)
class CalibrationText:
    """What a model is calibrated on: its passages, and for the manifest the text's name and SHA-256.

    The name is ours with its version, or that of the user's file or folder.
    """

    passages: tuple[TokenPassage, ...]
    name: str
    sha256: str


def read_calibration(
    path: Path | None,
    encode: Encode,
    render: Render,
    *,
    tokens: int,
    context: int,
    passage_tokens: int = PASSAGE_TOKENS,
    least: int | None = None,
) -> CalibrationText:
    """`tokens` tokens of the user's text at `path`, or of ours where that is None.

    Of ours all there is, where a tokenizer makes less of it; of the user's at least `least`. Raises as
    `read_user_text` and `user_passages` do.
    """
    if path is None:
        ours = calibration_passages(
            encode, render, tokens=tokens, context=context, passage_tokens=passage_tokens
        )
        files = {file.name: file.read_bytes() for file in _folder().iterdir()}
        return CalibrationText(tuple(ours), CALIBRATION_TEXT, hash_of(files))
    text = read_user_text(path)
    theirs = user_passages(
        text, encode, render, tokens=tokens, context=context, passage_tokens=passage_tokens, least=least
    )
    return CalibrationText(tuple(theirs), path.resolve().name, text.sha256)


def calibration_passages(
    encode: Encode, render: Render, *, tokens: int, context: int, passage_tokens: int = PASSAGE_TOKENS
) -> list[TokenPassage]:
    """`tokens` tokens of our calibration text, or all of it: see `divide` for how they are shared."""
    return divide(
        shipped_passages(_folder()),
        encode,
        render,
        tokens=tokens,
        context=context,
        passage_tokens=passage_tokens,
    )


def _folder() -> Traversable:
    return resources.files(__package__) / "calibration"
