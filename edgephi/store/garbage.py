"""Removing what nothing needs.

What stays are the current generation, the previous one, those that run, and those that a unit names.
"""

from dataclasses import dataclass
from pathlib import Path

from edgephi.steps import Step, silent
from edgephi.store.disk.device_errors import device_errors
from edgephi.store.disk.durable import sync
from edgephi.store.disk.in_use import only_us, opened_by_others
from edgephi.store.disk.layout import Layout, check_store
from edgephi.store.disk.lock import StoreLock
from edgephi.store.disk.parts import clear_parts
from edgephi.store.disk.units import named_in_units
from edgephi.store.environments.folders import collect_environments
from edgephi.store.generations import installed, manifests, remove_generation
from edgephi.store.recover import recover_locked
from edgephi.store.state import change_state, read_state

_BLOCK_BYTES = 512


@dataclass(frozen=True)
class Collected:
    """What was removed: digests of generations, files of no generation, and the disk that is free again.

    `still_open` are generations that would have gone, but a process uses them; `in_units`, but a unit of the
    device's service manager names them.
    """

    generations: tuple[str, ...]
    still_open: tuple[str, ...]
    objects: int
    freed_bytes: int
    in_units: tuple[str, ...] = ()


def collect_garbage(
    root: Path,
    *,
    dry_run: bool = False,
    unfinished: bool = False,
    lock_wait_seconds: float = 0.0,
    step: Step = silent,
) -> Collected:
    """Remove what nothing needs: generations, objects, environments; with `unfinished`, parts too.

    `dry_run` only says what would be removed. Raises UsageError where there is no store, StoreBusyError while
    another process changes it, and has for `lock_wait_seconds`.
    """
    check_store(root)
    layout = Layout(root)
    with (
        device_errors(root),
        StoreLock.take(layout, "gc", wait_seconds=lock_wait_seconds, step=step),
    ):
        recover_locked(layout)
        state = read_state(layout)
        kept = {state.current, state.previous}
        others = opened_by_others(layout)
        named = named_in_units()
        leaving, still_open, in_units = [], [], []
        for digest in installed(layout):
            if digest in kept or state.current is None:  # nobody knows yet which one it will be
                continue
            if digest in named.generations:
                in_units.append(digest)
                continue
            with only_us(layout.generation(digest)) as is_free:
                if digest in others or not is_free:
                    still_open.append(digest)
                    continue
                leaving.append(digest)
                if not dry_run:
                    remove_generation(layout, digest)
        objects, freed = _remove_objects(layout, frozenset(leaving), dry_run=dry_run)
        remaining = [digest for digest in installed(layout) if digest not in leaving]
        freed += collect_environments(layout, remaining, named=named.environments, dry_run=dry_run)
        if unfinished:
            freed += _bytes_in(layout.parts) if dry_run else clear_parts(layout)
        if leaving and state.unproven and not dry_run:
            change_state(layout, unproven=tuple(each for each in state.unproven if each not in leaving))
    return Collected(tuple(leaving), tuple(still_open), objects, freed, tuple(in_units))


def _remove_objects(layout: Layout, leaving: frozenset[str], *, dry_run: bool) -> tuple[int, int]:
    """Remove the objects of no generation but those `leaving`. Returns how many and their bytes."""
    needed: set[str] = set()
    gone: set[str] = set()
    for digest, manifest in manifests(layout):
        (gone if digest in leaving else needed).update(entry.sha256 for entry in manifest.files)
    count = freed = 0
    for path in sorted(layout.objects.iterdir()):
        facts = path.lstat()
        # A second link is a file of a generation, even where its manifest cannot be read.
        is_linked = facts.st_nlink > 1 and not (dry_run and path.name in gone)
        if path.name in needed or is_linked:
            continue
        count += 1
        freed += facts.st_blocks * _BLOCK_BYTES
        if not dry_run:
            path.unlink()
    if count and not dry_run:
        sync(layout.objects)
    return count, freed


def _bytes_in(folder: Path) -> int:
    return sum(path.lstat().st_blocks * _BLOCK_BYTES for path in folder.iterdir())
