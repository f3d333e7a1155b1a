"""The text on which a bundle is measured: short passages of our own in several domains and languages.

A passage is a file `evaluation/NAME.LANGUAGE.txt`. What is measured is one sequence of tokens, made of the
beginning of every passage, so that few tokens already cover all domains, scripts and formats.

Numbers can only be compared on the same text: whoever changes a passage gives EVALUATION_TEXT a new number
(a test compares the passages with the hash that belongs to it).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal

EVALUATION_TEXT = "edgephi-eval-1"
"""Name and version of the passages, for the certificate."""

EvaluationLevel = Literal["quick", "full"]
Domain = Literal["general", "device"]
"""All passages, or only the commands to a home device, which are all that the demo model knows."""

TOKENS: dict[EvaluationLevel, int] = {"quick": 256, "full": 2048}
"""How many tokens a level measures, where the context and the passages are long enough."""

_DEVICE_PASSAGE = "device"


@dataclass(frozen=True)
class Passage:
    """One piece of text: a `name` that says what it is, its `language` (ISO 639-1), and the text."""

    name: str
    language: str
    text: str


def passages(domain: Domain = "general") -> tuple[Passage, ...]:
    """The passages of a domain, in alphabetical order of name and language."""
    folder = resources.files(__package__) / "evaluation"
    found = []
    for name in sorted(file.name for file in folder.iterdir() if file.name.endswith(".txt")):
        passage, language, _ = name.split(".")
        # Bytes, so that no platform translates the line ends.
        found.append(Passage(passage, language, (folder / name).read_bytes().decode()))
    return tuple(passage for passage in found if domain == "general" or passage.name == _DEVICE_PASSAGE)


def evaluation_tokens(
    encode: Callable[[str], Sequence[int]],
    level: EvaluationLevel,
    *,
    context: int,
    domain: Domain = "general",
) -> list[int]:
    """The token ids to measure: the beginning of every passage, one after the other.

    `encode` turns text into token ids, special tokens that are written in the text (`<|user|>`) included,
    but adds none of its own. Every passage gives equally many tokens, TOKENS[level] or `context` in all,
    whichever is less; what a short passage cannot give is shared among the longer ones.
    """
    encoded = [list(encode(passage.text)) for passage in passages(domain)]
    sizes = _slice_sizes([len(ids) for ids in encoded], min(TOKENS[level], context))
    return [token for ids, size in zip(encoded, sizes, strict=True) for token in ids[:size]]


def _slice_sizes(lengths: Sequence[int], budget: int) -> list[int]:
    """Share `budget` as evenly as `lengths` allow: 10 among (2, 9, 9) is (2, 4, 4)."""
    sizes = [0] * len(lengths)
    # From the shortest to the longest, each takes an equal share of what is left: none gets less than before.
    for done, index in enumerate(sorted(range(len(lengths)), key=lambda i: lengths[i])):
        sizes[index] = min(lengths[index], budget // (len(lengths) - done))
        budget -= sizes[index]
    return sizes
