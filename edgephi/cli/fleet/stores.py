"""The stores that the words of a command line mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgephi.cli.fleet.boxes_file import BoxesFile, read_boxes_file, unknown_name
from edgephi.errors import UsageError
from edgephi.flash.destination import Box, is_box, read_destination


@dataclass(frozen=True)
class Store:
    """One store. `destination` means it in every command, `word` in one that is called as this one was.

    `name` tells it from the others, and `place` is where it is.
    """

    destination: str
    word: str
    name: str
    place: Box | Path


def read_stores(words: Sequence[str], boxes_file: Path | None = None) -> tuple[Store, ...]:
    """The stores that words mean, in their order; with a file, also the names of its boxes and groups.

    A box that several groups have is meant once. Raises UsageError for a word that means none, or for a store
    that is named twice, and BadInputError for a file that is none of boxes.
    """
    file = read_boxes_file(boxes_file) if boxes_file is not None else None
    named: dict[str, str] = {}
    plain = list(words)
    if file is not None and boxes_file is not None:
        for word in words:
            named |= _named(boxes_file, file, word)
        plain = list(named)
    destinations = [named.get(word, word) for word in plain]
    places = [read_destination(destination) for destination in destinations]
    twice = {word for word, place in zip(plain, places, strict=True) if places.count(place) > 1}
    if twice:
        raise UsageError(f"{min(twice)}: expected each store once, found it twice", hint="name it once")
    hosts = [str(place) for place in places]
    if len(set(hosts)) < len(hosts):  # a box may have several stores
        hosts = destinations
    names = [
        host if word == destination else word
        for word, destination, host in zip(plain, destinations, hosts, strict=True)
    ]
    return tuple(Store(*each) for each in zip(destinations, plain, names, places, strict=True))


def _named(path: Path, file: BoxesFile, word: str) -> dict[str, str]:
    """The destinations that one word means beside a file, by the words for them; a folder has a / there."""
    if file.knows(word):
        return {name: file.boxes[name] for name in file.names_in(word)}
    if is_box(word) or "/" in word:
        return {word: word}
    raise unknown_name(path, file, word)
