"""How fast a bundle goes into a registry and out of it, beside oras and curl, and in how much memory.

`python -m tests.bench.registry [--gigabytes N]` prints a table. The registry is Debian's docker-registry on
this machine, the bundle random bytes. `oras` is the ORAS project's client in Python, with the same file in a
repository of its own; `curl` fetches the same blob and `sha256sum` checks it, as `edgephi pull` checks what
it fetches. Runs alternate, each into a new place on an idle disk; medians.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.manifest import read_manifest
from tests.bench.flash import BALLAST, with_ballast
from tests.bench.measure import Cost, edgephi, folder_bytes, report, run
from tests.flash.oci.registry_server import serve_registry

_ORAS = """
import sys
import oras.client
client = oras.client.OrasClient(insecure=True)
what, target, folder = sys.argv[1:]
if what == "push":
    client.push(target, files=sys.argv[3:], disable_path_validation=True, quiet=True)
else:
    client.pull(target, outdir=folder)
"""


@dataclass(frozen=True)
class Way:
    """One way to do a thing, and the way that it is held against, "" for none."""

    title: str
    run: Callable[[int], Cost]
    beside: str = ""


def main() -> None:
    """Measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("bundle", type=Path, help="a small bundle for this machine: edgephi build demo")
    arguments.add_argument("--gigabytes", type=float, default=1.0, help="ballast added to it")
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--scratch", type=Path, help="a folder on the disk to measure")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=given.scratch) as name:
        scratch = Path(name)
        bundle = with_ballast(given.bundle, scratch / "bundle", int(given.gigabytes * 1e9))
        with serve_registry(scratch / "registry") as registry:
            measure(bundle, registry.host, scratch, given.runs)


def measure(bundle: Path, host: str, scratch: Path, runs: int) -> None:
    """Push and fetch a bundle in all ways, and print a table."""
    (entry,) = (entry for entry in read_manifest(bundle).files if entry.path == BALLAST)
    place = scratch / "place"

    def oras(what: str, target: str, where: Path) -> Cost:
        return run([sys.executable, "-c", _ORAS, what, f"{host}/{target}", where])

    def curl(_round: int) -> Cost:
        blob = f"http://{host}/v2/ours-0/blobs/sha256:{entry.sha256}"
        fetch = f"curl -s --fail --noproxy '*' -o {place} {blob} && sha256sum {place} > /dev/null"
        return run(["/bin/sh", "-c", fetch])

    ways = (
        # A repository of its own for each round: what another one has is only linked.
        Way("oras push", lambda number: oras("push", f"oras-{number}:1", bundle / BALLAST)),
        Way("push", lambda number: run(edgephi("push", bundle, f"{host}/ours-{number}:1")), "oras push"),
        Way("push again", lambda number: run(edgephi("push", bundle, f"{host}/ours-{number}:1"))),
        Way("oras pull", lambda number: oras("pull", f"oras-{number}:1", place)),
        Way("curl + sha256sum", curl),
        Way(
            "pull", lambda _: run(edgephi("pull", f"oci://{host}/ours-0:1", "-o", place)), "curl + sha256sum"
        ),
        Way(
            "flash oci://",
            lambda _: run(edgephi("flash", f"oci://{host}/ours-0:1", place, "--elsewhere")),
            "curl + sha256sum",
        ),
    )
    costs: dict[str, list[Cost]] = {way.title: [] for way in ways}
    for number in range(runs):
        for way in ways:
            _remove(place)
            os.sync()
            costs[way.title].append(way.run(number))
            print(f"{way.title}: {costs[way.title][-1].seconds:.2f} s", file=sys.stderr)
    size = folder_bytes(bundle)
    rows = [_row(way, costs, size) for way in ways]
    report([f"a registry, {size / 1e9:.2f} GB", "seconds", "MB/s", "memory", "of theirs"], rows)


def _row(way: Way, costs: dict[str, list[Cost]], size: int) -> list[str]:
    """A line of the table: medians of time and of the ratio to the other way, and the most memory."""
    seconds = statistics.median(cost.seconds for cost in costs[way.title])
    memory = max(cost.peak_bytes for cost in costs[way.title])
    ratio = ""
    if way.beside:
        pairs = zip(costs[way.beside], costs[way.title], strict=True)
        ratio = f"{statistics.median(theirs.seconds / ours.seconds for theirs, ours in pairs):.2f}"
    return [way.title, f"{seconds:.2f}", f"{size / seconds / 1e6:.0f}", f"{memory / 1e6:.0f} MB", ratio]


def _remove(place: Path) -> None:
    """Remove a file or folder, if there is one."""
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
