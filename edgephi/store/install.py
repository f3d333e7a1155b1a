"""Installing one bundle, in the order that keeps a working model at every moment.

    preflight     from the manifest alone, before a byte of weights
    begin         lock; put right what a power cut left; find what is here already
    write …       chunks into `parts`, acknowledged in batches
    finish        verify -> sync files -> rename into objects -> sync folders -> build gens/.tmp -> sync ->
                  rename -> probe -> mark the trial -> swap `current` -> sync -> commit

Each step stands on the disk before the next one relies on it. Whoever transports the chunks, from a folder of
this machine or over a network, uses this one class.
"""

import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from edgephi.bundle.artifact.foreign_files import check_artifact
from edgephi.bundle.chunks import Chunk, chunks_of
from edgephi.bundle.manifest import Manifest
from edgephi.errors import BadBundleError
from edgephi.steps import Step, silent
from edgephi.store.activation import activate
from edgephi.store.beginning import lock_store
from edgephi.store.disk.device_errors import device_errors
from edgephi.store.disk.hashing import files_sha256
from edgephi.store.disk.in_use import is_open
from edgephi.store.disk.layout import Layout
from edgephi.store.disk.lock import StoreLock
from edgephi.store.disk.objects import adopt_parts, damaged_chunks, plain_size, sync_folders, sync_parts
from edgephi.store.disk.parts import PartFile, Parts, clear_parts
from edgephi.store.disk.sources import find_sources, read_source
from edgephi.store.environments.trial import is_ready
from edgephi.store.generations import (
    build_generation,
    digest_of,
    has_signature,
    installed,
    relink_all,
    remove_generation,
)
from edgephi.store.preflight import Admitted, InstallOptions, check_identity, check_voucher, preflight
from edgephi.store.proving.probe import ProbeResult
from edgephi.store.proving.proof import prove_generation
from edgephi.store.state import State, change_state, read_state
from edgephi.store.trust.vouching import vouched

BATCH_BYTES = 64 << 20
"""Bytes between two acknowledgements: less than a second of a fast disk, a minute of a slow network."""


@dataclass(frozen=True)
class WantedFile:
    """A file of which the store lacks `chunks`, in order; `path` is one of its names in the bundle."""

    sha256: str
    path: str
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Outcome:
    """What an installation came to. `sent_bytes` were transported, `saved_bytes` were here already.

    `was_current`: it was installed and active before. `changed`: the store is another than it was, also when
    something of the active bundle was mended. `probe` None: it did not have to be proven again, or another
    machine will have to. `signer`: the trusted key that vouches for it. `still_open`: a process that
    began with the previous bundle goes on with it. `previous_unvouched`: why nothing goes back to that one,
    because no key vouches for it now, else "".
    """

    digest: str
    name: str
    sequence: int
    previous: str | None
    sent_bytes: int
    saved_bytes: int
    was_current: bool
    probe: ProbeResult | None
    signer: str | None
    still_open: bool = False
    previous_unvouched: str = ""
    changed: bool = True


class Install:
    """One bundle on its way into a store, which stays locked until `close`.

    `wanted` are the chunks to hand to `write`; `total_bytes` those of the bundle's files, `have_bytes` those
    that were here already.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        data: bytes,
        signature: bytes | None,
        admitted: Admitted,
        options: InstallOptions,
        lock: StoreLock,
    ) -> None:
        self.layout = layout
        self.manifest = admitted.manifest
        self.digest = digest_of(data)
        self.wanted: tuple[WantedFile, ...] = ()
        self._data = data
        self._signature = signature
        self._admitted = admitted
        self._options = options
        self._lock = lock
        self._files = distinct_files(admitted.manifest)
        self._objects: set[str] = set()
        self._parts = Parts(layout, self._files.values())
        self._sent = 0
        self.total_bytes = sum(entry.size for entry in self.manifest.files)

    @classmethod
    def begin(
        cls,
        root: Path,
        manifest_bytes: bytes,
        signature_bytes: bytes | None,
        *,
        options: InstallOptions | None = None,
        step: Step = silent,
    ) -> "Install":
        """Check the manifest, lock the store and find what is missing. One that is refused leaves nothing.

        Raises what `preflight` does, StoreBusyError, DoesNotFitError for a full disk and TransportError for
        a broken one.
        """
        options = options or InstallOptions()
        layout = Layout(root)
        with device_errors(root):
            admitted = preflight(root, manifest_bytes, signature_bytes, options)
            lock = lock_store(layout, "flash", wait_seconds=options.lock_wait_seconds, step=step)
            try:
                # Another flash may have ended since: its release may be newer than this one.
                check_identity(
                    layout, manifest_bytes, signature_bytes, allow_downgrade=options.allow_downgrade
                )
            except BaseException:
                lock.close()
                raise
            install = cls(
                layout,
                data=manifest_bytes,
                signature=signature_bytes,
                admitted=admitted,
                options=options,
                lock=lock,
            )
            try:
                install._find_what_is_here(step)
            except BaseException:
                install.close()
                raise
        return install

    @property
    def wanted_bytes(self) -> int:
        """The bytes of all chunks in `wanted`."""
        return sum(chunk.size for file in self.wanted for chunk in file.chunks)

    @property
    def have_bytes(self) -> int:
        """The bytes of the bundle that need not be sent."""
        return self.total_bytes - self.wanted_bytes

    def write(self, file_sha256: str, offset: int, data: bytes | memoryview) -> None:
        """Take the chunk of a wanted file that begins at `offset`.

        Raises BadBundleError when it is not the manifest's, else as `begin` does for the disk.
        """
        with device_errors(self.layout.root):
            size, hashing = self._parts.write(file_sha256, offset, data)
        self._sent += size
        hashing.result()

    def write_in_order(self, file_sha256: str, offset: int, data: bytes | memoryview) -> Future[None]:
        """Take a chunk from a source that is quick and gives each file in order: nothing is hashed twice.

        Such a source hears at the end of its file that a chunk is not the manifest's. Raises as `write` does.
        The caller may use `data` again as soon as what this returns is done.
        """
        with device_errors(self.layout.root):
            size, hashing = self._parts.write_in_order(file_sha256, offset, data)
        self._sent += size
        return hashing

    def acknowledge(self) -> int:
        """Have the disk hold all chunks that were written: they are never wanted again. Returns their bytes.

        May be called from another thread than `write`. A disk that failed once is not asked again.
        """
        with device_errors(self.layout.root):
            return self._parts.acknowledge()

    def finish(self, step: Step = silent) -> Outcome:
        """Turn what has arrived into the active generation.

        Raises BadBundleError when something is missing or not what the manifest says, ProbeFailedError when
        it does not answer as it must; `current` then leads where it did. Raises as `begin` for the disk.
        """
        layout, manifest = self.layout, self.manifest
        with device_errors(layout.root):
            before = read_state(layout)
            was_current = before.current == self.digest
            runtime = self._admitted.runtime
            is_proven = was_current and self.digest not in before.unproven
            was_whole = (
                was_current
                and len(self._objects) == len(self._files)
                and has_signature(layout, self.digest, self._signature)
            )
            self._store_files(step)
            was_installed = self.digest in installed(layout)
            build_generation(layout, manifest, self._data, self._signature)
            result = None
            try:
                if runtime is not None and not (is_proven and is_ready(layout, self.digest, runtime)):
                    result = prove_generation(
                        layout,
                        self.digest,
                        manifest,
                        runtime,
                        step=step,
                        limit_seconds=self._options.probe_seconds,
                        confirm=lambda: check_voucher(layout, self._identify(), runtime),
                    )
                signer = self._identify()  # a key may have come, gone or been lost since it began
            except BaseException:
                if not was_installed:
                    remove_generation(layout, self.digest)
                raise
            after = activate(
                layout,
                self.digest,
                manifest,
                is_signed=signer is not None,
                is_proven=is_proven or result is not None,
            )
        return Outcome(
            digest=self.digest,
            name=manifest.name,
            sequence=manifest.sequence,
            previous=after.previous,
            sent_bytes=self._sent,
            saved_bytes=self.total_bytes - self._sent,
            was_current=was_current,
            probe=result,
            signer=signer,
            still_open=after.previous is not None and is_open(layout, after.previous),
            previous_unvouched=_unvouched(layout, after),
            changed=not was_whole or result is not None,
        )

    def close(self) -> None:
        """Unlock the store. What was acknowledged stays for the next time."""
        self._parts.close()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _identify(self) -> str | None:
        """The name of the key that vouches for the bundle now. Raises BadBundleError or BadInputError."""
        _, signer = check_identity(
            self.layout, self._data, self._signature, allow_downgrade=self._options.allow_downgrade
        )
        return signer

    def _find_what_is_here(self, step: Step) -> None:
        """Sort the files into whole objects and parts, and fill the parts from what the store has."""
        files = self._files.values()
        objects = [file for file in files if plain_size(self.layout.object(file.sha256)) == file.size]
        size = sum(file.size for file in objects) + self._parts.journaled_bytes
        if size:
            with step("check what is here", size) as done:
                self._check_objects(objects, done)
                for file in files:
                    if file.sha256 not in self._objects:
                        self._parts.take_up(file.sha256, done)
        missing = [file for file in files if file.sha256 not in self._objects]
        self._copy_chunks(missing, step)
        wanted = ((file, self._parts.missing(file.sha256)) for file in missing)
        self.wanted = tuple(WantedFile(file.sha256, file.path, chunks) for file, chunks in wanted if chunks)

    def _check_objects(self, files: list[PartFile], done: Callable[[int], None]) -> None:
        """Find the objects that are unchanged: reading them costs little beside a silent error."""
        digests = files_sha256([self.layout.object(file.sha256) for file in files], done)
        self._objects = {
            file.sha256 for file in files if digests[self.layout.object(file.sha256)] == file.sha256
        }

    def _copy_chunks(self, files: list[PartFile], step: Step) -> None:
        """Copy the chunks that the store has in other files, or in damaged ones."""
        missing = [(file, chunk) for file in files for chunk in self._parts.missing(file.sha256)]
        sources = find_sources(self.layout, {chunk.sha256 for _, chunk in missing if chunk.sha256})
        found = [(file, chunk) for file, chunk in missing if chunk.sha256 in sources]
        if not found:
            return
        unacknowledged = 0
        with step("copy what is here", sum(chunk.size for _, chunk in found)) as done:
            for file, chunk in found:
                data = read_source(sources[chunk.sha256 or ""])
                with contextlib.suppress(BadBundleError):  # damaged: then it is sent
                    unacknowledged += self._parts.write(file.sha256, chunk.offset, data).size
                done(chunk.size)
                if unacknowledged >= BATCH_BYTES:
                    self._parts.acknowledge()
                    unacknowledged = 0
            self._parts.acknowledge()

    def _store_files(self, step: Step) -> None:
        """Verify the parts and turn them into objects."""
        new = [file for file in self._files.values() if file.sha256 not in self._objects]
        for file in new:
            if not file.size:
                self._parts.create_empty(file.sha256)
        self._parts.acknowledge()
        self._verify(new, step)
        self._check_artifact()
        names = [file.sha256 for file in new]
        sync_parts(self.layout, names)
        adopt_parts(self.layout, names)
        sync_folders(self.layout)
        self._objects.update(names)
        damaged = read_state(self.layout).damaged
        repaired = damaged.keys() & self._objects
        relink_all(self.layout, self._files)  # those too that a flash before this one could not come to
        clear_parts(self.layout)
        if repaired:
            still = {sha256: offsets for sha256, offsets in damaged.items() if sha256 not in repaired}
            change_state(self.layout, damaged=still)

    def _verify(self, files: list[PartFile], step: Step) -> None:
        """Hold every new file against its sha256. Raises BadBundleError and forgets the one that is wrong."""
        for file in files:
            missing = self._parts.missing(file.sha256)
            if missing:
                raise BadBundleError(
                    f"{file.path}: expected all of its chunks, {len(missing)} are missing",
                    hint="flash the bundle again: only these are sent",
                )
        known = {file.sha256: self._parts.digest(file.sha256) for file in files}
        unread = [file for file in files if known[file.sha256] is None]
        digests: dict[Path, str] = {}
        if unread:
            with step("verify", sum(file.size for file in unread)) as done:
                digests = files_sha256([self.layout.part(file.sha256) for file in unread], done)
        for file in files:
            digest = known[file.sha256] or digests[self.layout.part(file.sha256)]
            if digest != file.sha256:
                damaged = damaged_chunks(self.layout.part(file.sha256), file.chunks.values())
                self._parts.forget(file.sha256)
                what = f"chunk at {damaged[0].offset} changed on the disk" if damaged else f"found {digest}"
                raise BadBundleError(
                    f"{file.path}: expected sha256 {file.sha256}, {what}", hint="flash the bundle again"
                )

    def _check_artifact(self) -> None:
        """See that no file leads the engine out of the bundle, while nothing has left `parts` yet."""
        check_artifact(
            self.manifest,
            lambda entry: (
                self.layout.object(entry.sha256)
                if entry.sha256 in self._objects
                else self.layout.part(entry.sha256)
            ),
        )


def _unvouched(layout: Layout, state: State) -> str:
    """Why no key vouches for the previous generation, where one is asked for; "" where nobody can say."""
    with contextlib.suppress(OSError):  # the bundle is active already
        return vouched(layout, state.previous, state)[1] if state.previous else ""
    return ""


def distinct_files(manifest: Manifest) -> dict[str, PartFile]:
    """The files of a manifest by their content, each once."""
    files: dict[str, PartFile] = {}
    for entry in manifest.files:
        if entry.sha256 not in files:
            chunks = {chunk.offset: chunk for chunk in chunks_of(entry)}
            files[entry.sha256] = PartFile(entry.path, entry.sha256, entry.size, chunks)
    return files
