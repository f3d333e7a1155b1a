"""Bundles that hash right and must not stay: their probe fails, and the store goes back by itself.

Each is made from a good one by changing what it is, and a manifest that honestly lists the result.
"""

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.manifest import Manifest, read_manifest
from tests.store.faults.aftermath import aftermath
from tests.store.faults.box import Box, ends_well, must_succeed, store_like
from tests.store.faults.bundles import Releases, remade
from tests.store.faults.outcome import Outcome, Verdict, tried

PROGRAMS: tuple[str, ...] = ()
_DATA = "model/model.onnx.data"
_CONFIG = "model/genai_config.json"


@dataclass(frozen=True)
class Change:
    """What makes a good bundle bad: contents of files, and parts of its manifest."""

    files: Callable[[Path], dict[str, bytes]] = lambda _good: {}
    manifest: Callable[[Manifest], dict[str, object]] = lambda _good: {}
    exit_code: int = 5


def _probe(**changes: object) -> Callable[[Manifest], dict[str, object]]:
    def change(good: Manifest) -> dict[str, object]:
        assert good.probe is not None
        return {"probe": dataclasses.replace(good.probe, **changes)}  # type: ignore[arg-type]

    return change


def _memory(size: int) -> Callable[[Manifest], dict[str, object]]:
    return lambda good: {"requires": dataclasses.replace(good.requires, memory_bytes=size)}


CHANGES = {
    "weights in another order": Change(lambda good: {_DATA: _shuffled((good / _DATA).read_bytes())}),
    "weights are zero": Change(lambda good: {_DATA: bytes((good / _DATA).stat().st_size)}),
    "the engine cannot open it": Change(
        lambda good: {_CONFIG: (good / _CONFIG).read_bytes().replace(b'"llama"', b'"abacus"')}
    ),
    "another answer than it was built with": Change(manifest=_probe(expected="Good morning")),
    "slower than it must be": Change(manifest=_probe(minimum_tokens_per_second=1e9)),
    "takes more memory than it says": Change(manifest=_memory(1 << 20)),
    "needs more memory than there is": Change(manifest=_memory(1 << 50), exit_code=3),
}


def bad_bundles(scratch: Path, releases: Releases) -> Outcome:
    """Flash each bad bundle over the old release, which must stay active and answer."""
    prepared = Box(scratch / "probed")
    must_succeed(prepared.flash(releases.old))

    def one(name: str) -> Verdict:
        change = CHANGES[name]
        manifest = change.manifest(read_manifest(releases.new))
        bad = remade(releases.new, scratch / name.replace(" ", "-"), change.files(releases.new), **manifest)
        with store_like(prepared, scratch) as box:
            before = box.settled()
            done = box.flash(bad)
            if done.returncode != change.exit_code or not ends_well(done):
                return Verdict(broken=f"{name}: ended with {done.returncode}: {done.stderr}")
            if box.settled() != before:
                return Verdict(broken=f"{name}: the store is not as it was")
            answer = box.answer("turn on the kitchen light")
            if '"turn_on"' not in answer.stdout:
                return Verdict(broken=f"{name}: the active bundle does not answer: {answer.stderr}")
            return aftermath(box, releases, name, in_flash=False)

    return tried("bad bundle with an honest manifest", CHANGES, one)


def _shuffled(data: bytes) -> bytes:
    """The same weights, 64 bytes at a time in another order."""
    lines = [data[start : start + 64] for start in range(0, len(data), 64)]
    random.Random(17).shuffle(lines)
    return b"".join(lines)
