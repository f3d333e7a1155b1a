"""What happens to files at rest: bits flip, files are cut or go. Scrub finds it, the next flash mends it.

A flash sends again only the chunks that changed. `outcome.py` has what is counted; here a case is
`finished` when no more than one chunk for each changed byte was sent.
"""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

from edgephi.bundle.chunks import LARGEST_CHUNK_BYTES
from tests.store.faults.box import Box, BrokenStoreError, digest_of, must_succeed, store_like
from tests.store.faults.bundles import Releases
from tests.store.faults.outcome import Outcome, Verdict, tried

PROGRAMS = ("strace",)


def flipped_bits(scratch: Path, releases: Releases, cases: int = 20, seed: int = 13) -> Outcome:
    """A bit of an installed file flips; each file of the bundle has its turn, at a random place."""
    chance = random.Random(seed)
    prepared = Box(scratch / "flipped")
    must_succeed(prepared.flash(releases.new))
    files = json.loads((releases.new / "bundle.json").read_bytes())["files"]

    def one(number: int) -> Verdict:
        entry = files[number % len(files)]
        place = chance.randrange(entry["size"])
        case = f"bit of byte {place} of {entry['path']}"
        with store_like(prepared, scratch) as box:
            flip_bit(box.root / "current" / entry["path"], place, chance.randrange(8))
            return _found_and_mended(box, releases.new, entry["path"], case)

    return tried("bit flipped at rest", range(cases), one)


def cut_files(scratch: Path, releases: Releases) -> Outcome:
    """An installed file is cut in the middle, emptied, or gone."""
    prepared = Box(scratch / "cut")
    must_succeed(prepared.flash(releases.new))
    changes: dict[str, Callable[[Path], None]] = {
        "halved": lambda path: os.truncate(path, path.stat().st_size // 2),
        "emptied": lambda path: os.truncate(path, 0),
        "removed": Path.unlink,
        "grown": lambda path: os.truncate(path, path.stat().st_size + 1),
    }
    names = ("model/model.onnx.data", "model/tokenizer.json")

    def one(case: tuple[str, str]) -> Verdict:
        change, name = case
        with store_like(prepared, scratch) as box:
            changes[change](box.root / "current" / name)
            return _found_and_mended(box, releases.new, name, f"{name} {change}")

    return tried("file cut, grown or gone at rest", [(a, b) for a in changes for b in names], one)


def flip_bit(file: Path, place: int, bit: int) -> None:
    """Change one bit of a file where it lies, as a bad cell does: its times stay as they are."""
    times = file.stat()
    with file.open("r+b") as opened:
        opened.seek(place)
        [byte] = opened.read(1)
        opened.seek(place)
        opened.write(bytes([byte ^ 1 << bit]))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def _found_and_mended(box: Box, bundle: Path, name: str, case: str) -> Verdict:
    """Whether scrub finds the damage of one file and names it, and the same bundle again mends it."""
    try:
        scrub = box.on("status", "--scrub")
        if scrub.returncode == 0 or name not in scrub.stdout + scrub.stderr:
            raise BrokenStoreError(
                f"scrub ended with {scrub.returncode} and said {scrub.stdout}{scrub.stderr}"
            )
        mended = must_succeed(box.flash(bundle, "--json"))
        if box.check() != digest_of(bundle):
            raise BrokenStoreError("another generation is active")
        must_succeed(box.on("status", "--scrub"))
        sent = json.loads(mended.stdout)["sent_bytes"]
        if sent > LARGEST_CHUNK_BYTES:
            raise BrokenStoreError(f"{sent} bytes were sent again")
    except (BrokenStoreError, OSError) as broken:
        return Verdict(broken=f"{case}: {broken}")
    return Verdict("new", finished=True)
