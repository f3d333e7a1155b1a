"""The stores that the words of a command line mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgephi.errors import UsageError
from edgephi.flash.destination import Box, read_destination


@dataclass(frozen=True)
class Store:
    """One store: `word` means it on a command line, `name` tells it from the others, `place` is its own."""

    word: str
    name: str
    place: Box | Path


def read_stores(words: Sequence[str]) -> tuple[Store, ...]:
    """The stores that words mean, in their order. Raises UsageError for one that is none or comes twice."""
    places = [read_destination(word) for word in words]
    twice = {word for word, place in zip(words, places, strict=True) if places.count(place) > 1}
    if twice:
        raise UsageError(f"{min(twice)}: expected each store once, found it twice", hint="name it once")
    hosts = [str(place) for place in places]
    names = hosts if len(set(hosts)) == len(hosts) else words  # a box may have several stores
    return tuple(Store(*each) for each in zip(words, names, places, strict=True))
