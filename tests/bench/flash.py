"""Speed of `edgephi flash` beside what people use instead, and memory on both sides.

To a folder: beside `cp` and `sha256sum` of the same bytes. Over ssh, to a stock sshd on loopback: beside
`scp` of the same bytes to the same disk. Ours does more in that time: it checks every byte, has the disk hold
it, and has the model answer. So `scp` followed by `sha256sum` and `sync` on the box is printed too, and our
times without the model's answer. What counts is plain `scp`. Runs alternate; medians.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edgephi.bundle.chunks import ChunkHashes, FileEntry, cut
from edgephi.bundle.manifest import read_manifest
from edgephi.bundle.unfinished import write_manifest
from edgephi.store.disk.hashing import file_sha256
from tests.bench.measure import edgephi, folder_bytes, high_water_mark, report, run
from tests.flash.ssh.sshd import Sshd

BALLAST = "model/ballast.bin"
_POLL_SECONDS = 0.02


def main() -> None:
    """Measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("bundle", type=Path, help="a small bundle for this machine: edgephi build demo")
    arguments.add_argument("--gigabytes", type=float, default=2.0, help="ballast added to it")
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--scratch", type=Path, help="a folder on the disk to measure")
    arguments.add_argument("--only", choices=("folder", "ssh"))
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=given.scratch) as name:
        scratch = Path(name)
        bundle = with_ballast(given.bundle, scratch / "bundle", int(given.gigabytes * 1e9))
        if given.only != "ssh":
            folder(bundle, scratch, given.runs)
        if given.only != "folder":
            ssh(bundle, scratch, given.runs)


def with_ballast(bundle: Path, destination: Path, size: int) -> Path:
    """A copy of a bundle with a large file more that no engine opens."""
    shutil.copytree(bundle, destination)
    hashes, rest, numbers = ChunkHashes(cut(size)), size, random.Random(1)
    with (destination / BALLAST).open("wb") as file:
        while rest:
            data = numbers.randbytes(min(rest, 1 << 22))
            file.write(data)
            hashes.update(memoryview(data))
            rest -= len(data)
    entry = FileEntry(BALLAST, size, file_sha256(destination / BALLAST, lambda _: None), hashes.table())
    manifest = read_manifest(bundle)
    # It counts as weights, for which there must be memory.
    needs = dataclasses.replace(manifest.requires, memory_bytes=manifest.requires.memory_bytes + size)
    write_manifest(destination, dataclasses.replace(manifest, files=(*manifest.files, entry), requires=needs))
    return destination


def folder(bundle: Path, scratch: Path, runs: int) -> None:
    """`edgephi flash` into a folder, and `cp` with `sha256sum`."""
    peaks: list[int] = []

    def ours(place: Path, *options: str) -> float:
        cost = run([*edgephi("flash", bundle, place), *options])
        peaks.append(cost.peak_bytes)
        return cost.seconds

    def theirs(place: Path) -> float:
        script = f"cp -r {bundle} {place} && find {place} -type f -exec sha256sum {{}} + > /dev/null"
        return run(["/bin/sh", "-c", script]).seconds

    times = alternating(
        scratch / "store",
        runs,
        {"ours": ours, "unproven": lambda place: ours(place, "--elsewhere"), "theirs": theirs},
    )
    size = folder_bytes(bundle)
    rows = rows_of(size, times, {"cp + sha256sum": "theirs", "flash": "ours", "flash, no probe": "unproven"})
    report([f"to a folder, {size / 1e9:.2f} GB", "seconds", "MB/s", "of theirs"], rows)
    print(f"peak memory: {max(peaks) / 1e6:.0f} MB (with the probe, which runs the model)\n", flush=True)


def ssh(bundle: Path, scratch: Path, runs: int) -> None:
    """`edgephi flash` over ssh, and `scp`."""
    server = Sshd(scratch / "box")
    server.start()
    near, far = [], []
    probes: list[float] = []

    def ours(place: Path) -> float:
        start = time.perf_counter()
        with peaks_of_agents(server) as peaks:
            process = subprocess.Popen(
                [str(word) for word in edgephi("flash", bundle, server.destination(place), "--json")],
                env={**os.environ, **server.environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            mark = 0
            while process.poll() is None:
                mark = max(mark, high_water_mark(process.pid))
                time.sleep(_POLL_SECONDS)
        seconds = time.perf_counter() - start
        assert process.stdout is not None and process.stderr is not None
        said, errors = process.stdout.read(), process.stderr.read().decode()
        if process.returncode:
            raise SystemExit(errors)
        near.append(mark)
        far.append(max(peaks, default=0))
        probes.append(float(json.loads(said)["probe"]["seconds"]))
        return seconds

    def theirs(place: Path) -> float:
        return run(copy_to(place)).seconds

    def theirs_checked(place: Path) -> float:
        check = f"find {place} -type f -exec sha256sum {{}} + > /dev/null && sync --file-system {place}"
        return run(copy_to(place)).seconds + run(["/bin/sh", "-c", check]).seconds

    def copy_to(place: Path) -> list[str]:
        options = ("-o", f"UserKnownHostsFile={server.home / '.ssh' / 'known_hosts'}", "-i")
        copy = ["scp", "-q", "-r", *options, str(server.home / ".ssh" / "id_ed25519"), "-P", str(server.port)]
        return [*copy, str(bundle), f"127.0.0.1:{place}"]

    try:
        ways: dict[str, Callable[[Path], float]] = {"ours": ours, "theirs": theirs, "checked": theirs_checked}
        times = alternating(scratch / "store", runs, ways)
    finally:
        server.kill()
    times["unproven"] = [seconds - probe for seconds, probe in zip(times["ours"], probes, strict=True)]
    size = folder_bytes(bundle)
    names = {
        "scp": "theirs",
        "scp + sha256sum + sync": "checked",
        "flash": "ours",
        "flash, no probe": "unproven",
    }
    rows = rows_of(size, times, names)
    report([f"over ssh, {size / 1e9:.2f} GB", "seconds", "MB/s", "of theirs"], rows)
    print(f"peak memory: {max(near) / 1e6:.0f} MB here, {max(far) / 1e6:.0f} MB on the box (the agent)")


@contextlib.contextmanager
def peaks_of_agents(server: Sshd) -> Iterator[list[int]]:
    """The largest resident sets of the agents on the box while the block runs."""
    peaks: dict[int, int] = {}
    marks: list[int] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.2):
            for pid in server.agents():
                peaks[pid] = max(peaks.get(pid, 0), high_water_mark(pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield marks
    finally:
        ended.set()
        thread.join()
        marks += peaks.values()


def alternating(place: Path, runs: int, ways: dict[str, Callable[[Path], float]]) -> dict[str, list[float]]:
    """Seconds of each way, one after the other in each round, each into a new place on an idle disk."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            shutil.rmtree(place, ignore_errors=True)
            os.sync()
            times[name].append(way(place))
            print(f"{name}: {times[name][-1]:.2f} s", file=sys.stderr)
    shutil.rmtree(place, ignore_errors=True)
    return times


def rows_of(size: int, times: dict[str, list[float]], names: dict[str, str]) -> list[list[str]]:
    """A line for each way: its median, its rate, and the median of its ratios to theirs, round by round."""
    rows = []
    for title, name in names.items():
        seconds = statistics.median(times[name])
        ratios = [theirs / each for theirs, each in zip(times["theirs"], times[name], strict=True)]
        rows.append(
            [title, f"{seconds:.2f}", f"{size / seconds / 1e6:.0f}", f"{statistics.median(ratios):.2f}"]
        )
    return rows


if __name__ == "__main__":
    main()
