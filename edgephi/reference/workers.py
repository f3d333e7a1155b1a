"""One worker thread a core, among which the reference shares its work, with BLAS held to a single thread.

That is as fast as BLAS with threads of its own on an idle machine, hides the reading and dequantising, and
keeps its speed on a busy one: OpenBLAS's threads wait for each other spinning, and lose a factor of 5 to 15
as soon as another process wants one of their cores.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

Item = TypeVar("Item")


@contextmanager
def one_worker_per_core() -> Iterator[Executor]:
    """Threads to share the work among, with BLAS held to the thread that calls it."""
    # Only the cores that this process may use: a container or `taskset` may have fewer than the machine.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with (
        threadpool_limits(limits=1, user_api="blas"),
        ThreadPoolExecutor(cores, initializer=_pass_over) as workers,
    ):
        yield workers


def _pass_over() -> None:
    """Let a thread say nothing of numbers past float32's range: who reads the result looks for them."""
    np.seterr(over="ignore", invalid="ignore")


def share(workers: Executor, work: Callable[[Item], None], items: Sequence[Item]) -> None:
    """Do `work` on every item and wait; the first error stops what has not begun and is raised here."""
    for _ in workers.map(work, items):
        pass
