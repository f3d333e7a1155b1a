"""Requests that wait for the engine, which answers one at a time: first come, first served, and not many."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from edgephi.server.engine.messages import Ask, Echo, End, Finished, Piece, Progress
from edgephi.server.refusal import Refusal

Event = Progress | Echo | Piece | Finished | End | Refusal

_REMEMBERED_DURATIONS = 16
_FIRST_GUESS_SECONDS = 5.0  # a request's time in the engine, before there was one
_LONGEST_RETRY_SECONDS = 600.0


class Job:
    """One request on its way through the queue and the engine. Moments are those of `time.monotonic`.

    The last event is an End or a Refusal; after it nothing is added.
    """

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.arrived = time.monotonic()
        self.started: float | None = None
        self.first_piece: float | None = None
        self.end: End | None = None
        self._closed = False
        self._events: deque[Event] = deque()
        self._news = asyncio.Event()

    def put(self, event: Event) -> None:
        """Add what happened to it."""
        if isinstance(event, End):
            self.end = event
        if self._closed:
            return
        if isinstance(event, Piece) and self.first_piece is None:
            self.first_piece = event.at
        self._closed = isinstance(event, End | Refusal)
        self._events.append(event)
        self._news.set()

    @property
    def closed(self) -> bool:
        """Whether its last event has come."""
        return self._closed

    async def events(self) -> list[Event]:
        """All that happened since the last call; waits for something to happen."""
        await self._news.wait()
        self._news.clear()
        events = list(self._events)
        self._events.clear()
        return events

    @property
    def queue_seconds(self) -> float:
        """How long it waited for the engine, or still waits."""
        return (time.monotonic() if self.started is None else self.started) - self.arrived


class Queue:
    """At most `limit` jobs wait beside the one that the engine is on."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[Job] = deque()
        self._news = asyncio.Event()
        self._less = asyncio.Event()
        self._durations: deque[float] = deque(maxlen=_REMEMBERED_DURATIONS)
        self.in_hand: Job | None = None
        """The job that the engine is on."""

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, job: Job) -> None:
        """Let a job wait. Raises Refusal (429) when there are too many already."""
        if len(self._waiting) + (self.in_hand is not None) > self._limit:
            raise Refusal(
                429,
                f"the engine is busy, and {len(self._waiting)} requests wait already, which is the most",
                code="queue_full",
                retry_after=self._until_half_empty(),
            )
        self._waiting.append(job)
        self._news.set()

    async def take(self) -> Job:
        """The job that has waited longest; waits for one. It is `in_hand` until `finish`."""
        while not self._waiting:
            self._news.clear()
            await self._news.wait()
        self.in_hand = self._waiting.popleft()
        self.in_hand.started = time.monotonic()
        return self.in_hand

    def put_back(self) -> None:
        """The engine was gone before it heard of the job in hand: it is the next one again."""
        if self.in_hand is not None:
            self.in_hand.started = None
            self._waiting.appendleft(self.in_hand)
            self.in_hand = None

    def finish(self) -> None:
        """The engine is done with the job in hand."""
        if self.in_hand is not None and self.in_hand.started is not None:
            self._durations.append(time.monotonic() - self.in_hand.started)
        self.in_hand = None
        self._less.set()

    async def until_empty(self) -> None:
        """Wait until nobody waits and the engine is on nothing."""
        while self._waiting or self.in_hand is not None:
            self._less.clear()
            await self._less.wait()

    def leave(self, job: Job) -> bool:
        """Take a job out that nobody waits for any more; False when it does not wait."""
        try:
            self._waiting.remove(job)
        except ValueError:
            return False
        self._less.set()
        return True

    def refuse_all(self, refusal: Refusal) -> None:
        """Tell the same to all who wait, and to the one that the engine is on."""
        for job in (*self._waiting, *filter(None, [self.in_hand])):
            job.put(refusal)
        self._waiting.clear()

    def _until_half_empty(self) -> float:
        """Seconds after which half of those who wait now will have had their turn."""
        known = self._durations
        each = sum(known) / len(known) if known else _FIRST_GUESS_SECONDS
        return min(each * max(1.0, len(self._waiting) / 2), _LONGEST_RETRY_SECONDS)
