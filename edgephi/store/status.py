"""What is in a store, and how it is."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.files import check_files
from edgephi.bundle.manifest import Manifest
from edgephi.errors import EdgephiError, StoreBusyError
from edgephi.processes.file_lock import holder_of
from edgephi.steps import Step, silent
from edgephi.store.disk.device_errors import device_errors
from edgephi.store.disk.in_use import only_us, opened_by_others
from edgephi.store.disk.layout import Layout, check_store
from edgephi.store.disk.lock import StoreLock, described, holder
from edgephi.store.environments.folders import environment_of
from edgephi.store.generations import installed, manifest_of
from edgephi.store.recover import Recovery, read_settled_state, recover_locked
from edgephi.store.scrub import Damage, scrub
from edgephi.store.state import Role, State, role_of
from edgephi.store.trust.vouching import keys_problem, vouched

_BLOCK_BYTES = 512
_NOT_WRITTEN = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class GenerationStatus:
    """One generation. `problem` is what is wrong with it, "" when nothing is known to be.

    `is_open`: some process uses it. `is_proven` False: it was installed for this machine by another one, and
    has not answered here yet. `size_bytes` are those of its files, which it may share with others. `signer`:
    the trusted key that vouches for it; `unvouched`: why none does where one is asked for, else "".
    """

    digest: str
    role: Role
    name: str
    sequence: int
    created: str
    target: str
    size_bytes: int
    is_open: bool
    is_proven: bool
    problem: str
    signer: str | None
    unvouched: str


@dataclass(frozen=True)
class StoreStatus:
    """A store. `busy_with` is what another process does in it right now, "" when none does.

    `recovery` is what was put right just now. `unfinished_bytes` have arrived of a bundle that is not whole.
    `damages` are what this scrub found, None when it was not asked for. `keys_problem`: why it takes no
    bundle at all, because its keys are lost, else "".
    """

    root: str
    generations: tuple[GenerationStatus, ...]
    busy_with: str
    recovery: Recovery
    stored_bytes: int
    unfinished_bytes: int
    free_bytes: int
    damages: tuple[Damage, ...] | None
    keys_problem: str


def status(
    root: Path, *, scrub_too: bool = False, lock_wait_seconds: float = 0.0, step: Step = silent
) -> StoreStatus:
    """What is in a store, after what a power cut left was put right. `scrub_too` reads all of it.

    Only a scrub waits for another process that changes it. Raises UsageError where there is no store, and
    StoreBusyError for a scrub after `lock_wait_seconds`.
    """
    check_store(root)
    layout = Layout(root)
    busy_with, recovery, damages = "", Recovery(), None
    with device_errors(root):
        try:
            wait_seconds = lock_wait_seconds if scrub_too else 0.0
            with StoreLock.take(layout, "status", wait_seconds=wait_seconds, step=step):
                recovery = recover_locked(layout)
                damages = scrub(layout, step) if scrub_too else None
        except StoreBusyError:
            if scrub_too:
                raise
            who = holder(layout)
            busy_with = who.purpose if who else described(layout)
        except OSError as cause:
            if cause.errno not in _NOT_WRITTEN:
                raise
            # One that we cannot write to, for it is not ours or its disk is full, is looked at all the same;
            # the lock of one that is not ours we cannot even open.
            working = holder_of(layout.lock)
            busy_with = str(working) if working else ""
            damages = scrub(layout, step, note=False) if scrub_too else None
        state = read_settled_state(layout)
        others = opened_by_others(layout)
        generations = [_generation(layout, digest, state, others) for digest in installed(layout)]
        order: tuple[Role, ...] = ("current", "previous", "other")
        generations.sort(key=lambda each: (order.index(each.role), -each.sequence))
        disk = os.statvfs(root)
        return StoreStatus(
            root=str(root.absolute()),
            generations=tuple(generations),
            busy_with=busy_with,
            recovery=recovery,
            stored_bytes=_bytes_in(layout.objects),
            unfinished_bytes=_bytes_in(layout.parts),
            free_bytes=disk.f_bavail * disk.f_frsize,
            damages=damages,
            keys_problem=keys_problem(layout, state),
        )


def _generation(layout: Layout, digest: str, state: State, others: set[str]) -> GenerationStatus:
    problem, manifest = "", None
    try:
        manifest = manifest_of(layout, digest)
        check_files(layout.generation(digest), manifest, quick=True)
        problem = _noted_damage(manifest, state) or _environment_problem(layout, digest, state)
    except EdgephiError as error:
        problem = error.message
    with only_us(layout.generation(digest)) as is_free:
        is_open = digest in others or not is_free
    signer, unvouched = vouched(layout, digest, state)
    return GenerationStatus(
        digest=digest,
        role=role_of(state, digest),
        name=manifest.name if manifest else "",
        sequence=manifest.sequence if manifest else 0,
        created=manifest.created if manifest else "",
        target=manifest.target.name if manifest else "",
        size_bytes=sum(entry.size for entry in manifest.files) if manifest else 0,
        is_open=is_open,
        is_proven=digest not in state.unproven,
        problem=problem,
        signer=signer,
        unvouched=unvouched,
    )


def _noted_damage(manifest: Manifest, state: State) -> str:
    """What the last scrub found in a generation."""
    for entry in manifest.files:
        offsets = state.damaged.get(entry.sha256)
        if offsets:
            more = f", and {len(offsets) - 1} more" if len(offsets) > 1 else ""
            return f"{entry.path}: its chunk at {offsets[0]} has changed on the disk{more}"
    return ""


def _environment_problem(layout: Layout, digest: str, state: State) -> str:
    """What is wrong with the environment of a generation, as far as a look and the last scrub tell."""
    folder = environment_of(layout, digest)
    if folder is None:
        return ""
    if not (folder / "bin" / "python").is_file():
        return f"its environment envs/{folder.name[:12]}… has no Python: flash the bundle again"
    if folder.name in state.damaged_environments:
        return f"its environment envs/{folder.name[:12]}… has changed on the disk"
    return ""


def _bytes_in(folder: Path) -> int:
    try:
        return sum(path.lstat().st_blocks * _BLOCK_BYTES for path in folder.iterdir())
    except FileNotFoundError:
        return 0
