"""Thousands of hostile requests to a real `edgephi serve`: what was answered wrong, and what became of it?

    python -m tests.server.hostile.requests [--count N] [--seed N]

Eight clients at a time draw from all ways in `ways.py`, the same for the same seed. Meanwhile one asks
`/health` all the time, and one a well-formed question whose answer is known. A failure is a wrong answer, a
client that does not end within 30 s by itself, a `/health` that is not answered within five, an engine that
was started again, a line about a bug in the log, or memory that grows.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from edgephi.server.engine.process_facts import resident_bytes
from tests.build.demo import build_demo
from tests.server.hostile.ways import LIMIT_SECONDS, QUICK, SLOW, Way
from tests.server.serving import Server, serving

CLIENTS = 8
HEALTH_SECONDS = 5.0
MOST_GROWTH = 48 << 20  # bytes from the middle to the end
_FEW = 3  # of what went wrong are printed


@dataclass
class Tally:
    """What became of one way."""

    count: int = 0
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What became of all of it. Bytes of server and engine: at the start, in the middle, at the end."""

    ways: dict[str, Tally] = field(default_factory=dict)
    server: list[int] = field(default_factory=list)
    engine: list[int] = field(default_factory=list)

    def faults(self) -> list[str]:
        """What must not be, in words."""
        found = []
        for name, tally in self.ways.items():
            found += [f"{name}: {wrong}" for wrong in tally.wrong]
            if tally.slowest > LIMIT_SECONDS:
                found.append(f"{name}: one took {tally.slowest:.1f} s")
        if self.ways["health"].slowest > HEALTH_SECONDS:
            found.append(f"health: one took {self.ways['health'].slowest:.1f} s")
        for name, sizes in (("server", self.server), ("engine", self.engine)):
            if sizes[-1] - sizes[1] > MOST_GROWTH:
                found.append(f"{name}: grew by {(sizes[-1] - sizes[1]) / 1e6:.0f} MB in the second half")
        return found


def attack(server: Server, count: int, seed: int, ways: Mapping[Way, int]) -> Report:
    """Send so many requests, drawn by `seed` with the weights of `ways`, and watch the server."""
    chance = random.Random(seed)
    drawn = chance.choices(list(ways), weights=list(ways.values()), k=count)
    seeds = [chance.randrange(1 << 32) for _ in drawn]
    report, lock, over = Report(), threading.Lock(), threading.Event()
    expected = server.chat().json()["choices"][0]["message"]["content"]

    def note(name: str, start: float, wrong: str | None) -> None:
        with lock:
            tally = report.ways.setdefault(name, Tally())
            tally.count += 1
            tally.slowest = max(tally.slowest, time.monotonic() - start)
            if wrong is not None:
                tally.wrong.append(wrong)

    def send(way: Way, seed: int) -> None:
        start = time.monotonic()
        try:
            wrong = way(random.Random(seed), server.port)
        except (OSError, ValueError) as cause:
            wrong = f"{type(cause).__name__}: {cause}"
        note(way.__name__, start, wrong)

    def watch_health() -> None:
        while not over.wait(0.05):
            start = time.monotonic()
            try:
                status = 408
                while status == 408 and time.monotonic() - start < LIMIT_SECONDS:  # others needed its place
                    status = httpx2.get(f"{server.url}/health", timeout=LIMIT_SECONDS).status_code
                note("health", start, None if status == 200 else f"status {status}")
            except httpx2.HTTPError as cause:
                note("health", start, f"{type(cause).__name__}: {cause}")

    def watch_answers() -> None:
        while not over.wait(0.2):
            start = time.monotonic()
            try:
                response = server.chat()
                while response.status_code in (408, 429) and time.monotonic() - start < LIMIT_SECONDS:
                    time.sleep(0.1)  # as it is told to
                    response = server.chat()
                wrong = None
                if response.status_code != 200:
                    wrong = f"status {response.status_code}"
                elif response.json()["choices"][0]["message"]["content"] != expected:
                    wrong = f"another answer: {response.text[:100]}"
                note("well-formed question", start, wrong)
            except httpx2.HTTPError as cause:
                note("well-formed question", start, f"{type(cause).__name__}: {cause}")

    def weigh() -> None:
        report.server.append(resident_bytes(server.process.pid))
        report.engine.append(resident_bytes(server.worker()))

    weigh()
    watchers = [threading.Thread(target=watch) for watch in (watch_health, watch_answers)]
    for watcher in watchers:
        watcher.start()
    try:
        with ThreadPoolExecutor(CLIENTS) as pool:
            for half in (slice(0, count // 2), slice(count // 2, count)):
                list(pool.map(send, drawn[half], seeds[half]))
                weigh()
    finally:
        over.set()
        for watcher in watchers:
            watcher.join()
    if server.metric("edgephi_engine_restarts_total"):
        note("engine", time.monotonic(), "it was started again")
    for word in ("bug in edgephi", "Traceback"):
        if word in server.log:
            note("log", time.monotonic(), f"{server.log.count(word)} times {word!r}")
    return report


def allow_files() -> None:
    """Room for some thousand connections on this side."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))


def main() -> int:
    """Attack a server of the demo, and print what became of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    allow_files()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_demo("cpu", folder / "bundle", verify="off")
        with serving(folder / "bundle", folder, "--context", 512) as server:
            start = time.monotonic()
            report = attack(server, options.count, options.seed, QUICK | SLOW)
            seconds = time.monotonic() - start
            others = sum(" warning: " in line for line in server.log.splitlines())
    print(f"{'way':24}{'count':>7}{'wrong':>7}{'slowest':>10}")
    for way, tally in sorted(report.ways.items()):
        print(f"{way:24}{tally.count:7}{len(tally.wrong):7}{tally.slowest:8.2f} s")
        for wrong in tally.wrong[:_FEW]:
            print(f"    {wrong}")
    for who, sizes in (("server", report.server), ("engine", report.engine)):
        print(f"{who}'s memory at the start, in the middle, at the end: ", end="")
        print(", ".join(f"{size / 1e6:.1f} MB" for size in sizes))
    print(f"{options.count} requests in {seconds:.0f} s; lines of warning in the log: {others}")
    faults = report.faults()
    print("\n".join(faults) if faults else "nothing went wrong")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
