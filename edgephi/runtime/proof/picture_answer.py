"""The first answer of a bundle about a picture, in a process of its own: build and store ask for it.

A question of its own beside that of `first_answer`, whose records are never changed; so are these not. A
bundle that sees is only read by an edgephi that has this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import edgephi.runtime
from edgephi.processes.ask import Done, answer
from edgephi.runtime.options import Options
from edgephi.runtime.proof.clear_answer import CLEAR_MARGIN
from edgephi.runtime.text.scores import TokenScore


@dataclass(frozen=True)
class PictureQuestion:
    """Answer `prompt` about the `picture` in a file, in at most `max_tokens` tokens."""

    bundle: str
    picture: str
    prompt: str
    max_tokens: int


@dataclass(frozen=True)
class PictureAnswer:
    """Its text, and of that what comes before the first token that was no clear choice."""

    text: str
    clear: str


def picture_answer(question: PictureQuestion, _done: Done) -> PictureAnswer:
    """Do what is asked, in this process."""
    session = edgephi.runtime.load(Path(question.bundle), warn=lambda _text: None)
    options = Options(max_tokens=question.max_tokens, logprobs=2)
    said = session.generate(question.prompt, options, images=[Path(question.picture)])
    clear = _clear_beginning(said.scores or ())
    return PictureAnswer(said.text, clear if said.text.startswith(clear) else "")


def _clear_beginning(scores: Sequence[TokenScore]) -> str:
    """The text before the first token that has a close second, or other letters than a manifest may have."""
    found = b""
    for score in scores:
        first, second = (each.logprob for each in score.alternatives[:2])
        if first - second < CLEAR_MARGIN:
            break
        found += bytes(score.bytes)
    text = found.decode(errors="ignore")
    return "".join(text[: next((at for at, each in enumerate(text) if not each.isprintable()), len(text))])


if __name__ == "__main__":
    answer(PictureQuestion, picture_answer)
