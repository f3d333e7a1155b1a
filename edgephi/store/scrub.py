"""Reading everything in a store, to find what has changed at rest.

Disks forget. What is found is noted in the state, so that `status` shows it until the same bundle is flashed
again; only the chunks that changed are then sent.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.chunks import Chunk, FileEntry, chunks_of
from edgephi.bundle.manifest import MANIFEST_NAME
from edgephi.errors import EdgephiError
from edgephi.steps import Step
from edgephi.store.disk.hashing import files_sha256, forget_cached
from edgephi.store.disk.layout import Layout
from edgephi.store.disk.objects import damaged_chunks, plain_size
from edgephi.store.environments.folders import environment_of
from edgephi.store.environments.record import changes_in, size_of
from edgephi.store.generations import installed, manifest_of, relink_file
from edgephi.store.state import change_state, read_state


@dataclass(frozen=True)
class Damage:
    """What is not as it was installed: `size` bytes at `offset` of the file `path` of a generation.

    `sha256` is what the whole file should have. A size of 0: the file is missing, or is another one.
    With an `environment` it is a file of that, which the generation runs in, and what else it is is not told.
    """

    digest: str
    path: str
    sha256: str
    offset: int
    size: int
    environment: str = ""


def scrub(layout: Layout, step: Step, *, note: bool = True) -> tuple[Damage, ...]:
    """Read every file of every generation and its environment from the disk. Returns what is damaged.

    `note` writes it into the state; the caller then holds the store's lock.
    """
    damages: list[Damage] = []
    apart: list[tuple[str, FileEntry]] = []
    users: dict[str, list[tuple[str, FileEntry]]] = defaultdict(list)
    for digest in installed(layout):
        try:
            manifest = manifest_of(layout, digest)
        except EdgephiError:
            size = plain_size(layout.manifest(digest)) or 0
            damages.append(Damage(digest, MANIFEST_NAME, digest, 0, size))
            continue
        for entry in manifest.files:
            users[entry.sha256].append((digest, entry))
    damaged = _damaged_objects(layout, {sha256: each[0][1] for sha256, each in users.items()}, step)
    for sha256, uses in users.items():
        for digest, entry in uses:
            damages += [
                Damage(digest, entry.path, sha256, chunk.offset, chunk.size)
                for chunk in damaged.get(sha256, ())
            ]
            path = layout.generation(digest) / entry.path
            known = layout.object(sha256)
            if plain_size(path) is None or plain_size(known) is None:
                damages.append(Damage(digest, entry.path, sha256, 0, 0))
            elif not path.samefile(known):
                apart.append((digest, entry))
    damages += _files_apart(layout, apart, step, mend=note)
    in_environments = _damaged_environments(layout, step)
    damages += in_environments
    if note:
        noted = {sha256: tuple(chunk.offset for chunk in chunks) for sha256, chunks in damaged.items()}
        names = tuple(sorted({damage.environment for damage in in_environments}))
        state = read_state(layout)
        if (dict(state.damaged), state.damaged_environments) != (noted, names):
            change_state(layout, damaged=noted, damaged_environments=names)
    return tuple(damages)


def _files_apart(
    layout: Layout, apart: list[tuple[str, FileEntry]], step: Step, *, mend: bool
) -> list[Damage]:
    """Those files that are not their object itself, nor a copy of it.

    With `mend` a copy is the object again: a copy of a store, or an overlay, has made one file into two.
    """
    if not apart:
        return []
    paths = {(digest, entry.path): layout.generation(digest) / entry.path for digest, entry in apart}
    for path in paths.values():
        forget_cached(path)
    with step("scrub copies", sum(entry.size for _, entry in apart)) as done:
        found = files_sha256(paths.values(), done)
    damages = []
    for digest, entry in apart:
        if found[paths[digest, entry.path]] != entry.sha256:
            damages.append(Damage(digest, entry.path, entry.sha256, 0, 0))
        elif mend:
            relink_file(layout, digest, entry)
    return damages


def _damaged_objects(
    layout: Layout, entries: dict[str, FileEntry], step: Step
) -> dict[str, tuple[Chunk, ...]]:
    """The damaged chunks of each object that has some."""
    there = {
        sha256: entry for sha256, entry in entries.items() if plain_size(layout.object(sha256)) is not None
    }
    paths = {sha256: layout.object(sha256) for sha256 in there}
    for path in paths.values():
        forget_cached(path)
    with step("scrub", sum(entry.size for entry in there.values())) as done:
        digests = files_sha256(paths.values(), done)
    damaged = {}
    for sha256, entry in there.items():
        if digests[paths[sha256]] != sha256:
            whole = (Chunk(0, entry.size, sha256),)  # where no chunk tells more
            damaged[sha256] = damaged_chunks(paths[sha256], chunks_of(entry)) or whole
    return damaged


def _damaged_environments(layout: Layout, step: Step) -> list[Damage]:
    """What has changed in the environments that generations have; one that several share is told once."""
    users: dict[Path, str] = {}
    for digest in installed(layout):
        folder = environment_of(layout, digest)
        if folder is not None:
            users.setdefault(folder, digest)
    if not users:
        return []
    damages = []
    with step("scrub environments", sum(map(size_of, users))) as done:
        for folder, digest in users.items():
            paths = changes_in(folder, from_disk=True, progress=done)
            damages += [Damage(digest, path, "", 0, 0, folder.name) for path in paths]
    return damages
