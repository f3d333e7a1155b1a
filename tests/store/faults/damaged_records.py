"""What a store writes about itself is damaged: parts and their journal, `state.json`, the links.

None of it may be trusted blindly. Where a record says too little, more is sent; it must not mean a lost
bundle.
"""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

from tests.store.faults import traced
from tests.store.faults.aftermath import aftermath
from tests.store.faults.box import Box, BrokenStoreError, environment, must_succeed, store_like
from tests.store.faults.bundles import BALLAST, Releases
from tests.store.faults.decay import flip_bit
from tests.store.faults.disks import run
from tests.store.faults.outcome import Outcome, Verdict, tried

PROGRAMS = ("strace",)

Damage = Callable[[Path], object]


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _lead_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("gens/" + "0" * 64)


FILES: dict[str, Damage] = {
    "cut in the middle": _halve,
    "emptied": lambda path: os.truncate(path, 0),
    "grown": lambda path: os.truncate(path, path.stat().st_size + 4097),
    "gone": Path.unlink,
    "garbage": lambda path: path.write_bytes(random.Random(29).randbytes(path.stat().st_size)),
    "one bit flipped": lambda path: flip_bit(path, path.stat().st_size // 3, 5),
}
LINKS: dict[str, Damage] = {
    "gone": Path.unlink,
    "leads nowhere": _lead_nowhere,
}


def damaged_transfers(scratch: Path, releases: Releases) -> Outcome:
    """A transfer is cut off when all is there, then a part or the journal is damaged; the rest is sent."""
    cut_off = Box(scratch / "cut-off")
    must_succeed(cut_off.flash(releases.old))
    _die_after_the_transfer(cut_off, releases.new)
    files = json.loads((releases.new / "bundle.json").read_bytes())["files"]
    [ballast] = [entry for entry in files if entry["path"] == BALLAST]

    def one(case: tuple[str, str]) -> Verdict:
        name, damage = case
        with store_like(cut_off, scratch) as box:
            FILES[damage](box.root / "parts" / name)
            return aftermath(box, releases, case)

    names = (f"{ballast['sha256']}.part", "journal")
    return tried("parts or journal damaged", [(name, how) for name in names for how in FILES], one)


def damaged_states(scratch: Path, releases: Releases) -> Outcome:
    """`state.json` or a link is damaged: `status` finds the active release again."""
    prepared = Box(scratch / "damaged")
    for bundle in (releases.new, releases.old):
        must_succeed(prepared.flash(bundle, "--allow-downgrade"))

    def one(case: tuple[str, str]) -> Verdict:
        name, damage = case
        with store_like(prepared, scratch) as box:
            (FILES if name == "state.json" else LINKS)[damage](box.root / name)
            try:
                must_succeed(box.on("status"))
            except BrokenStoreError as broken:
                return Verdict(broken=f"{case}: {broken}")
            return aftermath(box, releases, case, in_flash=False)

    cases = [("state.json", damage) for damage in FILES]
    cases += [(link, damage) for link in ("current", "previous") for damage in LINKS]
    return tried("state or links damaged", cases, one)


def _die_after_the_transfer(box: Box, bundle: Path) -> None:
    """Leave a store to which all of a bundle was sent, and nothing was done with it."""
    with store_like(box, box.root.parent) as other:
        command = other.flash_command(bundle)
        calls = traced.calls(command, (*traced.NAMING, *traced.DURABLE), other.root, environment())
    first = next(call for call in calls if call.name.startswith("rename") and '"ROOT/objects/' in call.text)
    traced.injected(box.flash_command(bundle), first, "signal=SIGKILL", environment())
    if not (box.root / "parts" / "journal").is_file():
        raise RuntimeError("the flash did not die between its transfer and its objects")
    run("sync", "--file-system", box.root)
