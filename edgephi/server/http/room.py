"""Who is connected, and who has to go when one more comes and there is no room.

Connections cost a file each, and whoever opens them without asking anything must not keep others out,
`/health` least of all. So when all places are taken, the connection that keeps us waiting for longest makes
room: one that has not sent the head of a request, then one that has not sent all of its body, then one that
does not read its answer. One whose request is being worked on never has to go.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

MOST_CONNECTIONS = 256
_MOST_REFUSED = 64


class Awaited(enum.IntEnum):
    """What a client lets us wait for, in the order in which they have to go."""

    HEAD = 0
    BODY = 1
    READING = 2


class Member(Protocol):
    """A connection."""

    def make_room(self) -> None:
        """Close, after a word of why where there is time for one."""

    def abort(self) -> None:
        """Close at once."""


class Room:
    """Places for `most` connections, and some more for those that have been refused and shall read why.

    `told` hears a text each time that somebody had to go, or found no room.
    """

    def __init__(
        self, most: int = MOST_CONNECTIONS, told: Callable[[str], None] = lambda _text: None
    ) -> None:
        self.most = most
        self.told = told
        self._members: set[Member] = set()
        # Dictionaries keep the order in which their keys came: the first has let us wait for longest.
        self._waiting: dict[Awaited, dict[Member, None]] = {awaited: {} for awaited in Awaited}
        self._refused: dict[Member, None] = {}

    def enter(self, member: Member) -> bool:
        """Give a place to a new connection; False when there is none, because all are being worked for."""
        if len(self._members) >= self.most and not self.make_room():
            self.told("a connection was refused, because all others are being answered")
            return False
        self._members.add(member)
        return True

    def make_room(self) -> bool:
        """Close the connection that has let us wait for longest; False when none does."""
        last = next((each for waiting in self._waiting.values() for each in waiting), None)
        if last is None:
            return False
        self.leave(last)
        self.told("a connection that let the server wait was closed to make room for another")
        last.make_room()
        return True

    def free_file(self) -> None:
        """Close a connection at once, because files are short: first one that was told to go."""
        if not self._refused:
            self.make_room()
        first = next(iter(self._refused), None)  # it may linger, to read why
        if first is not None:
            del self._refused[first]
            first.abort()

    def awaits(self, member: Member, awaited: Awaited | None) -> None:
        """Note what a connection lets us wait for from now on, unless it did already; None: nothing."""
        for each, waiting in self._waiting.items():
            if each is not awaited:
                waiting.pop(member, None)
        if awaited is not None and member in self._members:
            self._waiting[awaited].setdefault(member)

    def refuse(self, member: Member) -> None:
        """A connection is told to go: it needs no place any more, but some time to read."""
        self.leave(member)
        self._refused[member] = None
        if len(self._refused) > _MOST_REFUSED:
            first = next(iter(self._refused))
            del self._refused[first]
            first.abort()

    def leave(self, member: Member) -> None:
        """A connection is gone."""
        self._members.discard(member)
        self._refused.pop(member, None)
        self.awaits(member, None)
