"""The text on which a bundle is measured: passages of our own in several domains and languages.

Every passage gives its first tokens, equally many, and is read from an empty context: the numbers then say
little of how the passages are ordered, and a row for each domain and language can be told from the others.

Numbers can only be compared on the same text: whoever changes a passage, or what a level takes of it, gives
EVALUATION_TEXT a new number (a test compares the passages with the hash that belongs to it).
"""

from importlib import resources
from typing import Literal

from edgephi.reference.passages import (
    Encode,
    Passage,
    Render,
    StoredPassage,
    TokenPassage,
    evenly_spaced,
    in_tokens,
    in_words,
    shipped_passages,
)

EVALUATION_TEXT = "edgephi-eval-2"
"""Name and version of the passages, for the certificate."""

EvaluationLevel = Literal["quick", "full"]
Domain = Literal["general", "device"]
"""Passages of all domains, or only commands to a home device, which are all that the demo model knows."""

PASSAGES: dict[EvaluationLevel, int] = {"quick": 8, "full": 20}
"""How many passages a level measures, at most."""

PASSAGE_TOKENS: dict[EvaluationLevel, int] = {"quick": 64, "full": 160}
"""How many tokens of each, where it has so many and the context is long enough.

The first 16 behave like no others and are not counted: `full` counts 20 x 144 = 2,880, which a gate can rest
on; `quick`, made for every build, 8 x 48 = 384 at a sixth of the work.
"""

# Of all commands to a device so many are in the general text: they are much alike.
_DEVICE_IN_GENERAL = 2


def passages(render: Render, domain: Domain = "general") -> tuple[Passage, ...]:
    """The passages of a domain in order of domain, language and name, as text."""
    return tuple(in_words(stored, render) for stored in _stored(domain))


def evaluation_passages(
    encode: Encode, render: Render, level: EvaluationLevel, *, context: int, domain: Domain = "general"
) -> list[TokenPassage]:
    """The passages to measure, each from an empty context: PASSAGES[level] of them, evenly spaced.

    Each has PASSAGE_TOKENS[level] tokens, or `context` if that is less, or what the passage has.
    """
    stored = _stored(domain)
    size = min(PASSAGE_TOKENS[level], context)
    chosen = (stored[place] for place in evenly_spaced(PASSAGES[level], len(stored)))
    return [in_tokens(passage, encode, render, most=size) for passage in chosen]


def _stored(domain: Domain) -> tuple[StoredPassage, ...]:
    every = shipped_passages(resources.files(__package__) / "evaluation")
    device = tuple(passage for passage in every if passage.domain == "device")
    if domain == "device":
        return device
    return tuple(passage for passage in every if passage not in device[_DEVICE_IN_GENERAL:])
