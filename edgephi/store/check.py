"""What a flash would do to a store, found out as a flash does it, and without writing anything."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.chunks import Chunk
from edgephi.steps import Step, silent
from edgephi.store.disk.device_errors import device_errors
from edgephi.store.disk.hashing import files_sha256, read_at
from edgephi.store.disk.layout import Layout
from edgephi.store.disk.objects import plain_size
from edgephi.store.disk.parts import PartFile, read_journal
from edgephi.store.disk.sources import find_sources, read_source
from edgephi.store.environments.environment import Runtime
from edgephi.store.environments.trial import is_ready
from edgephi.store.generations import digest_of, has_signature
from edgephi.store.install import WantedFile, distinct_files
from edgephi.store.preflight import InstallOptions, preflight
from edgephi.store.recover import read_settled_state
from edgephi.store.state import State


@dataclass(frozen=True)
class Checked:
    """What a flash would come to, as far as can be told before the bundle has answered.

    `active` is the digest of the generation that is active now. `changed`: the store would be another than it
    is. `sent_bytes` would be transported, `saved_bytes` are here. `signer`: the trusted key that vouches.
    """

    digest: str
    name: str
    sequence: int
    active: str | None
    changed: bool
    sent_bytes: int
    saved_bytes: int
    signer: str | None


def check_install(
    root: Path,
    data: bytes,
    signature: bytes | None,
    *,
    options: InstallOptions,
    step: Step = silent,
) -> tuple[Checked, tuple[WantedFile, ...]]:
    """Check the bundle with the manifest `data` against the store at `root`; also returns what it lacks.

    Raises what `preflight` does, and TransportError for a disk that cannot be read. Another process may
    change the store meanwhile, since nothing locks it.
    """
    layout = Layout(root)
    with device_errors(root):
        admitted = preflight(root, data, signature, options)
        manifest = admitted.manifest
        wanted, is_whole = _look(layout, list(distinct_files(manifest).values()), step)
        state = read_settled_state(layout)
        digest = digest_of(data)
        is_same = (
            state.current == digest
            and is_whole
            and has_signature(layout, digest, signature)
            and _is_proven(layout, digest, state, admitted.runtime)
        )
    total = sum(entry.size for entry in manifest.files)
    sent = sum(chunk.size for file in wanted for chunk in file.chunks)
    checked = Checked(
        digest=digest,
        name=manifest.name,
        sequence=manifest.sequence,
        active=state.current,
        changed=not is_same,
        sent_bytes=sent,
        saved_bytes=total - sent,
        signer=admitted.signer,
    )
    return checked, wanted


def _is_proven(layout: Layout, digest: str, state: State, runtime: Runtime | None) -> bool:
    """Whether an active generation need not answer again."""
    return runtime is None or (digest not in state.unproven and is_ready(layout, digest, runtime))


def _look(layout: Layout, files: list[PartFile], step: Step) -> tuple[tuple[WantedFile, ...], bool]:
    """What would have to be sent, and whether every file is there as itself, and none has to be made."""
    objects = [file for file in files if plain_size(layout.object(file.sha256)) == file.size]
    parts = [file for file in files if file not in objects]
    journal = read_journal(layout, mend=False)
    size = sum(file.size for file in objects)
    size += sum(chunk.size for file in parts for chunk in journal.get(file.sha256, {}).values())
    intact: set[str] = set()
    held: dict[str, set[int]] = {}
    if size:
        with step("check what is here", size) as done:
            digests = files_sha256([layout.object(file.sha256) for file in objects], done)
            intact = {each.sha256 for each in objects if digests[layout.object(each.sha256)] == each.sha256}
            for file in files:
                if file.sha256 not in intact:
                    held[file.sha256] = set(_arrived(layout, file, journal.get(file.sha256, {}), done))
    missing = [file for file in files if file.sha256 not in intact]
    lacking = {
        file.sha256: [file.chunks[at] for at in sorted(file.chunks) if at not in held.get(file.sha256, ())]
        for file in missing
    }
    here = _in_other_files(layout, [chunk for chunks in lacking.values() for chunk in chunks], step)
    wanted = (
        WantedFile(
            file.sha256,
            file.path,
            tuple(chunk for chunk in lacking[file.sha256] if chunk.sha256 not in here),
        )
        for file in missing
    )
    return tuple(each for each in wanted if each.chunks), not missing


def _arrived(
    layout: Layout, file: PartFile, journaled: dict[int, Chunk], done: Callable[[int], None]
) -> Iterator[int]:
    """The offsets of those chunks of an unfinished file that are there, as `Parts.take_up` finds them."""
    part = layout.part(file.sha256)
    size = plain_size(part)
    if not journaled or size is None or size > file.size:
        return
    with part.open("rb") as opened:
        for offset, chunk in file.chunks.items():
            known = journaled.get(offset)
            if known is None or known.size != chunk.size or chunk.sha256 not in (known.sha256, None):
                continue
            data = read_at(opened.fileno(), offset, chunk.size)
            done(chunk.size)
            if hashlib.sha256(data).hexdigest() == known.sha256:
                yield offset


def _in_other_files(layout: Layout, chunks: list[Chunk], step: Step) -> set[str | None]:
    """The digests of those chunks which the store has in other files, or in damaged ones, intact."""
    sources = find_sources(layout, {chunk.sha256 for chunk in chunks if chunk.sha256}, mend=False)
    found: set[str | None] = set()
    if sources:
        with step("check what is here", sum(source.size for source in sources.values())) as done:
            for sha256, source in sources.items():
                if hashlib.sha256(read_source(source)).hexdigest() == sha256:
                    found.add(sha256)
                done(source.size)
    return found
