"""The folder of trusted keys is lost, at every point of a command; commands that change it are cut short.

Whatever becomes of `trust/`, no bundle becomes active that the key of the store has not signed, and what is
active stays whole. Whether it is signed is told by `cryptography`, and not by the code of the store.
"""

import base64
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgephi.flash.signing.keys import public_half
from edgephi.flash.signing.sign import sign_bundle
from tests.store.faults import traced
from tests.store.faults.box import (
    Box,
    BrokenStoreError,
    digest_of,
    ends_well,
    environment,
    must_succeed,
    ran,
    store_like,
)
from tests.store.faults.bundles import Releases, remade
from tests.store.faults.disks import run
from tests.store.faults.lost_cache import cut_off
from tests.store.faults.outcome import Outcome, Verdict, tried

PROGRAMS = ("strace",)
_RELEASE, _REMOVED = (Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32) for seed in (41, 42))

# Before the audited call with that number which names a path below the store, its keys are lost. Such calls
# are all that open, list, make, rename, link or remove something.
_LOST = """
import os, shutil, sys
root, number, loss, count = {root!r}, {number}, {loss!r}, 0
def lose(event, arguments):
    global count
    named = [os.fsdecode(each) for each in arguments if isinstance(each, (str, bytes, os.PathLike))]
    if count < 0 or not any(each.startswith(root) for each in named):
        return
    count += 1
    if count == number:
        count = -1
        trust = os.path.join(root, "trust")
        if loss == "emptied":
            for name in os.listdir(trust):
                os.unlink(os.path.join(trust, name))
        else:
            shutil.rmtree(trust)
            if loss == "a link that leads nowhere":
                os.symlink("/nowhere/at/all", trust)
sys.addaudithook(lose)
if {log!r}:
    import atexit
    atexit.register(lambda: open({log!r}, "w").write(str(count)))
"""
LOSSES = ("gone", "emptied", "a link that leads nowhere")
FLASH_UNSIGNED = "flash of an unsigned bundle"
ROLL_BACK_TO_REMOVED = "roll-back to a bundle by a key that was removed"


@dataclass(frozen=True)
class _Signed:
    """Releases whose signatures differ: `releases` have that of the store's key, `removed` is by one that the
    store trusted once, and nobody signed `unsigned`. `public` is the file of the store's key.
    """

    releases: Releases
    removed: Path
    unsigned: Path
    public: Path


def lost_keys(
    scratch: Path, releases: Releases, every: int = 1, first: str = "", only: str | None = None
) -> Outcome:
    """Lose the keys at each `every`-th point of a command, in the three ways by turns.

    That command begins with the statements `first`. `only`: one of the commands, by its name here.
    """
    signed = _signed(scratch, releases)

    def flash(bundle: Path) -> Callable[[Box], list[str]]:
        return lambda box: box.flash_command(bundle)

    def rollback(box: Box) -> list[str]:
        return box.command("rollback", box.root)

    commands = {
        FLASH_UNSIGNED: (_with_old, flash(signed.unsigned)),
        "flash of a bundle by a key that was removed": (_with_old, flash(signed.removed)),
        "flash of a signed bundle": (_with_old, flash(signed.releases.new)),
        ROLL_BACK_TO_REMOVED: (_with_both_and_a_removed_key, rollback),
        "roll-back to a signed bundle": (_with_both, rollback),
    }
    chosen = [name for name in commands if only in (None, name)]
    prepare = {commands[name][0] for name in chosen}
    stores = {each: each(scratch / each.__name__, signed) for each in prepare}
    cases = []
    for name in chosen:
        prepared, command = commands[name]
        points = _points(stores[prepared], command, scratch, first)
        # At rest, before the first call, in each way; then at the others in turns.
        cases += [(name, 1, loss) for loss in LOSSES]
        cases += [(name, number, LOSSES[number % len(LOSSES)]) for number in range(2, points + 1)[::every]]

    def one(case: tuple[str, int, str]) -> Verdict:
        name, number, loss = case
        prepared, command = commands[name]
        with store_like(stores[prepared], scratch) as box:
            lost = _LOST.format(root=f"{box.root}/", number=number, loss=loss, log="")
            done = ran(command(Box(box.root, first + lost)))
            if not ends_well(done):
                return Verdict(broken=f"{case}: ended with {done.returncode}: {done.stderr[-2000:]}")
            return _held(box, signed, case)

    return tried("keys lost in `flash` and `rollback`", cases, one)


def killed_changes_of_keys(scratch: Path, releases: Releases, every: int = 1, first: str = "") -> Outcome:
    """Kill `trust add` and `trust remove` at each call; the same again, and the store is as it was told."""
    signed = _signed(scratch, releases)
    flashed = _with_old(scratch / "keyed", signed)
    open_to_all = Box(scratch / "open")
    must_succeed(open_to_all.flash(signed.releases.old))
    two_keys = Box(scratch / "two-keys")
    run("cp", "--archive", flashed.root, two_keys.root)
    must_succeed(_trust(two_keys, "add", _public(scratch, "backup", _REMOVED)))
    changes = {
        "trust add": (open_to_all, ("add", signed.public)),
        "trust remove": (two_keys, ("remove", "backup")),
        "trust remove --last": (flashed, ("remove", "release", "--last")),
    }

    def command(box: Box, change: str) -> list[str]:
        action, *words = changes[change][1]
        return box.command("trust", action, box.root, *words)

    cases = []
    for change, (prepared, _) in changes.items():
        with store_like(prepared, scratch) as box:
            names = (*traced.DURABLE, *traced.NAMING)
            calls = traced.calls(command(Box(box.root, first), change), names, box.root, environment())
        cases += [(change, call) for call in calls[::every]]

    def kill(case: tuple[str, traced.Call]) -> Verdict:
        change, call = case
        with store_like(changes[change][0], scratch) as box:
            done = traced.injected(
                command(Box(box.root, first), change), call, "signal=SIGKILL", environment()
            )
            if done.returncode != -signal.SIGKILL:
                return Verdict(broken=f"{case}: not killed, ended with {done.returncode}: {done.stderr}")
            return _as_told(box, change, command(Box(box.root, first), change), signed, case)

    return tried("SIGKILL in `trust`", cases, kill)


def lost_caches_of_new_keys(
    scratch: Path, releases: Releases, cuts: int = 40, seed: int = 9, first: str = ""
) -> Outcome:
    """Cut the power in the `trust add` of a store's first key; a part of the drive's cache is lost.

    Where it had ended, the key is known for good, also when its folder is lost afterwards.
    """
    signed = _signed(scratch, releases)

    def prepare(box: Box) -> None:
        must_succeed(box.flash(signed.releases.old))

    def command(box: Box) -> list[str]:
        return box.command("trust", "add", box.root, signed.public)

    def look(box: Box, case: str, has_ended: bool) -> Verdict:
        try:
            if box.check() != digest_of(signed.releases.old):
                raise BrokenStoreError("another release is active")
            if not has_ended:
                must_succeed(ran(command(box)))
        except (BrokenStoreError, OSError) as broken:
            return Verdict(broken=f"{case}: {broken}")
        shutil.rmtree(box.root / "trust", ignore_errors=True)
        return _held(box, signed, case)

    fault = "power cut in `trust add`, part of the drive's cache lost"
    return cut_off(fault, scratch, prepare, command, look, cuts=cuts, seed=seed, first=first)


def _as_told(box: Box, change: str, again: list[str], signed: _Signed, case: object) -> Verdict:
    """Whether a change of keys that was cut short can be made again, and then holds."""
    is_removal = change != "trust add"
    try:
        if not _is_signed(box.root / "current"):
            raise BrokenStoreError("what was active is not")
        repeated = ran(again)
        # The key may have gone already: then there is none of that name.
        if repeated.returncode and not (is_removal and repeated.returncode == 2):
            raise BrokenStoreError(f"again: ended with {repeated.returncode}: {repeated.stderr}")
        if change == "trust remove --last":
            if repeated.returncode:
                must_succeed(_trust(box, "remove", "--last"))
            must_succeed(box.flash(signed.unsigned))
            return Verdict("new", finished=box.check() == digest_of(signed.unsigned))
        if not is_removal:  # the state has been told of the key, so that its loss opens nothing
            shutil.rmtree(box.root / "trust")
    except (BrokenStoreError, OSError) as broken:
        return Verdict(broken=f"{case}: {broken}")
    return _held(box, signed, case)


def _held(box: Box, signed: _Signed, case: object) -> Verdict:
    """Whether only what the store's key has signed is active, now and after more is tried; then mend it."""
    names = {digest_of(signed.releases.old): "old", digest_of(signed.releases.new): "new"}
    try:
        active = names.get(box.check(), "another")
        for bundle in (signed.unsigned, signed.removed):
            done = box.flash(bundle)
            if done.returncode != 4 or not ends_well(done):
                raise BrokenStoreError(f"flash {bundle.name}: ended with {done.returncode}: {done.stderr}")
            if not _is_signed(box.root / "current"):
                raise BrokenStoreError(f"{box.check()[:12]} is active, which the key has not signed")
        trust = box.root / "trust"
        if trust.is_symlink():
            trust.unlink()
        must_succeed(_trust(box, "add", signed.public))
        must_succeed(box.flash(signed.releases.new))
        if names.get(box.check()) != "new":
            raise BrokenStoreError("the next flash did not make the new release active")
        if left := box.leftovers():
            raise BrokenStoreError(f"left over: {', '.join(left)}")
    except (BrokenStoreError, OSError) as broken:
        return Verdict(broken=f"{case}: {broken}")
    return Verdict(active, finished=True)


def _signed(scratch: Path, releases: Releases) -> _Signed:
    old, new = (
        remade(bundle, scratch / f"signed-{bundle.name}", {}) for bundle in (releases.old, releases.new)
    )
    removed, unsigned = (
        remade(releases.new, scratch / name, {}, sequence=3) for name in ("by-a-removed-key", "unsigned")
    )
    for bundle, key in ((old, _RELEASE), (new, _RELEASE), (removed, _REMOVED)):
        sign_bundle(bundle, key)
    return _Signed(Releases(old, new), removed, unsigned, _public(scratch, "release", _RELEASE))


def _public(scratch: Path, name: str, key: Ed25519PrivateKey) -> Path:
    file = scratch / f"{name}.pub"
    file.write_bytes(public_half(key).pem)
    return file


def _with_old(folder: Path, signed: _Signed) -> Box:
    """A store with the key, which runs the old release."""
    box = Box(folder)
    must_succeed(_trust(box, "add", signed.public))
    must_succeed(box.flash(signed.releases.old))
    return box


def _with_both(folder: Path, signed: _Signed) -> Box:
    """A store with the key, which runs the new release and has the old one."""
    box = _with_old(folder, signed)
    must_succeed(box.flash(signed.releases.new))
    return box


def _with_both_and_a_removed_key(folder: Path, signed: _Signed) -> Box:
    """The same, and the old release was signed by a key that was removed since."""
    old = remade(signed.releases.old, folder.with_suffix(".old"), {})
    (old / "bundle.dsse.json").unlink()
    sign_bundle(old, _REMOVED)
    box = Box(folder)
    for public in (signed.public, _public(folder.parent, "removed", _REMOVED)):
        must_succeed(_trust(box, "add", public))
    for bundle in (old, signed.releases.new):
        must_succeed(box.flash(bundle))
    must_succeed(_trust(box, "remove", "removed"))
    return box


def _points(prepared: Box, command: Callable[[Box], list[str]], scratch: Path, first: str) -> int:
    """How many calls of a command name a path below its store, so that the keys can be lost before each."""
    log = scratch / "points"
    with store_like(prepared, scratch) as box:
        counting = _LOST.format(root=f"{box.root}/", number=0, loss="", log=str(log))
        ran(command(Box(box.root, first + counting)))
    return int(log.read_text())


def _trust(box: Box, action: str, *words: object) -> subprocess.CompletedProcess[str]:
    return ran(box.command("trust", action, box.root, *words))


def _is_signed(generation: Path) -> bool:
    """Whether the store's key has signed the manifest of a generation."""
    try:
        envelope = json.loads((generation / "bundle.dsse.json").read_bytes())
    except FileNotFoundError:
        return False
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"]
    message = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    if payload != (generation / "bundle.json").read_bytes():
        return False
    for signature in envelope["signatures"]:
        try:
            _RELEASE.public_key().verify(base64.b64decode(signature["sig"]), message)
        except InvalidSignature:
            continue
        return True
    return False
