"""Hundreds of dialogues with hostile boxes and registries: how did each client end, when, and how large?

    python -m tests.flash.hostile.dialogues [--parallel N] [--only WORD]

Each is one run of `edgephi` by itself. A failure is one that does not end within the limit by itself, calls
what it met a bug of its own, ends well though nothing was well, or lets what would steer a terminal through.
"""

import argparse
import multiprocessing
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from edgephi.flash.oci.credentials import PASSWORD_VARIABLE, USER_VARIABLE
from tests.build.demo import build_demo
from tests.flash.hostile import box as boxes
from tests.flash.hostile import registry as registries
from tests.flash.hostile.client import Ended, run_client

LIMIT_SECONDS = 30.0
LARGEST_BYTES = 300 << 20
_LOOKS_LIKE_YES = ("half", "half-silent", "one-byte", "endless-body", "page", "compressed", "empty")
_HARMLESS = {
    *{("registry", "look", way) for way in (*_LOOKS_LIKE_YES, "not-here")},
    *{("registry", "end", way) for way in ("empty", "sent-elsewhere", "upload-elsewhere")},
    *{("registry", place, "sent-elsewhere") for place in ("name", "look", "begin", "send")},
}
"""What may come out well: there an answer that means nothing is what a good one may look like."""


@dataclass(frozen=True)
class Dialogue:
    """Against what, at which place of it, and how it misbehaves."""

    kind: str
    command: str
    place: str
    way: str

    def __str__(self) -> str:
        return f"{self.kind} {self.command}: {self.place}: {self.way}"


def all_dialogues() -> Iterator[Dialogue]:
    """Every combination."""
    for banner in boxes.BANNERS:
        yield Dialogue("ssh", "flash", "banner", banner)
    for place in boxes.PLACES:
        for way in boxes.WAYS:
            yield Dialogue("ssh", "flash", place, way)
    for way in boxes.WAYS:
        yield Dialogue("ssh", "status", "result", way)
    for way in boxes.RESULTS:
        yield Dialogue("ssh", "flash", "lies", way)
    for way in boxes.WANTS:
        yield Dialogue("ssh", "flash", "wants", way)
    yield Dialogue("ssh", "flash", "early", "")
    for command, places in (("pull", registries.PULL_PLACES), ("push", registries.PUSH_PLACES)):
        for place in places:
            for way in registries.WAYS:
                yield Dialogue("registry", command, place, way)


def hold(dialogue: Dialogue, bundle: Path, folder: Path) -> tuple[Ended, int]:
    """Hold one. Returns how the client ended, and how many secrets another server was given."""
    folder.mkdir()
    environment = {"HOME": str(folder), "DOCKER_CONFIG": str(folder), "LC_ALL": "C.UTF-8"}
    try:
        if dialogue.kind == "registry":
            return _with_registry(dialogue, bundle, folder, environment)
        if dialogue.place == "banner":
            with boxes.silent_port(dialogue.way) as port:
                return _flash(bundle, port, folder, environment), 0
        with boxes.hostile_box(folder) as box:
            box.place, box.way = dialogue.place, dialogue.way
            if dialogue.command == "status":
                address = f"ssh://127.0.0.1:{box.port}/store"
                return run_client("status", address, environment=environment, folder=folder / "said"), 0
            return _flash(bundle, box.port, folder, environment), 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _flash(bundle: Path, port: int, folder: Path, environment: dict[str, str]) -> Ended:
    address = f"ssh://127.0.0.1:{port}/store"
    return run_client("flash", bundle, address, environment=environment, folder=folder / "said")


def _with_registry(
    dialogue: Dialogue, bundle: Path, folder: Path, environment: dict[str, str]
) -> tuple[Ended, int]:
    environment |= {USER_VARIABLE: "alice", PASSWORD_VARIABLE: "s3cret"}
    with registries.hostile_registry(bundle) as registry:
        registry.place, registry.way = dialogue.place, dialogue.way
        reference = f"{registry.host}/a/b:1"
        words = ("push", bundle, reference)
        if dialogue.command == "pull":
            words = ("pull", f"oci://{reference}", "-o", folder / "out")  # type: ignore[assignment]
        ended = run_client(*words, environment=environment, folder=folder / "said")
        return ended, len(registry.secrets_elsewhere())


def faults(dialogue: Dialogue, ended: Ended, secrets: int) -> list[str]:
    """What was wrong with how a client ended."""
    found = []
    if ended.code is None or ended.seconds > LIMIT_SECONDS:
        found.append(f"took {ended.seconds:.0f} s")
    if ended.is_bug or ended.code == 1:
        found.append("calls it a bug")
    may_be_well = (dialogue.kind, dialogue.place, dialogue.way) in _HARMLESS
    if ended.code == 0 and not may_be_well:
        found.append("ended well")
    if ended.code not in (None, 0, 1, 2, 3, 4, 6):
        found.append(f"exit code {ended.code}")
    if ended.code and not (ended.message and b"\nhint: " in ended.errors):
        found.append("no error line and hint")
    if ended.steering:
        found.append("steers the terminal")
    if ended.peak_bytes > LARGEST_BYTES:
        found.append(f"{ended.peak_bytes >> 20} MiB")
    if secrets:
        found.append("gave a secret away")
    return found


def main() -> int:
    """Hold all of them and print a table. Returns 1 when there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--only", default="", help="dialogues whose name has this in it")
    options = parser.parse_args()
    chosen = [each for each in all_dialogues() if options.only in str(each)]
    wrong, codes = 0, Counter[int | None]()
    slowest, largest = 0.0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = build_demo("cpu", folder / "bundle").folder
        with ProcessPoolExecutor(options.parallel, multiprocessing.get_context("spawn")) as pool:
            waiting = {
                pool.submit(hold, each, bundle, folder / str(number)): each
                for number, each in enumerate(chosen)
            }
            for done in as_completed(waiting):
                dialogue, (ended, secrets) = waiting[done], done.result()
                found = faults(dialogue, ended, secrets)
                wrong += bool(found)
                codes[ended.code] += 1
                slowest, largest = max(slowest, ended.seconds), max(largest, ended.peak_bytes)
                size = ended.peak_bytes >> 20
                line = f"{dialogue!s:<46} {ended.code!s:>4} {ended.seconds:5.1f} s {size:4} MiB"
                print(f"{line} {ended.steering:3}  {', '.join(found) or 'ok'}", flush=True)
                if found:
                    print(f"    {ended.errors[-300:]!r}", flush=True)
    counted = ", ".join(f"{code}: {number}" for code, number in sorted(codes.items(), key=str))
    print(f"{len(chosen)} dialogues, {wrong} with a fault; exit codes {counted}")
    print(f"slowest {slowest:.1f} s, largest {largest >> 20} MiB")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
