"""What a machine of destruction did, and what was left: one row of the table in docs/flash.md."""

import concurrent.futures
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from tests.store.faults.box import Phase

_Case = TypeVar("_Case")


@dataclass(frozen=True)
class Outcome:
    """`cases` of one fault. `old`, `new`: which generation was active and whole afterwards.

    `finished`: in how many the next flash was tried, and completed. `broken` says what was lost or
    corrupted, and in which case: it must be empty. `phases`: where in a flash the fault fell.
    """

    fault: str
    cases: int
    old: int = 0
    new: int = 0
    finished: int = 0
    broken: tuple[str, ...] = ()
    phases: Counter[Phase] = field(default_factory=Counter)


@dataclass(frozen=True)
class Verdict:
    """One case. `active`: "old" or "new"; `finished`: the next flash ended with the new one active.

    `times`: how many cases came to this very state.
    """

    active: str = ""
    finished: bool = False
    broken: str = ""
    phase: Phase | None = None
    times: int = 1


def tried(
    fault: str, cases: Iterable[_Case], one: Callable[[_Case], Verdict], *, workers: int | None = None
) -> Outcome:
    """Try all cases of a fault, one a processor at a time, and count. Cases are made as they are needed."""
    workers = workers or os.cpu_count() or 1
    room = threading.Semaphore(2 * workers)

    def paced() -> Iterator[_Case]:
        for case in cases:
            room.acquire()
            yield case

    def one_of_them(case: _Case) -> Verdict:
        try:
            return one(case)
        finally:
            room.release()

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        verdicts = list(pool.map(one_of_them, paced()))
    phases: Counter[Phase] = Counter()
    for verdict in verdicts:
        if verdict.phase:
            phases[verdict.phase] += verdict.times
    return Outcome(
        fault,
        sum(verdict.times for verdict in verdicts),
        old=sum(verdict.times for verdict in verdicts if verdict.active == "old"),
        new=sum(verdict.times for verdict in verdicts if verdict.active == "new"),
        finished=sum(verdict.times for verdict in verdicts if verdict.finished),
        broken=tuple(verdict.broken for verdict in verdicts if verdict.broken),
        phases=phases,
    )
