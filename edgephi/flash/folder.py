"""From a bundle in a folder into a store in a folder of the same machine."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from edgephi.bundle.adapter_artifact import entries_in, is_artifact
from edgephi.bundle.files import check_files
from edgephi.bundle.manifest import (
    LARGEST_MANIFEST_BYTES,
    MANIFEST_NAME,
    SIGNATURE_NAME,
    read_manifest,
)
from edgephi.errors import BadBundleError, EdgephiError, UsageError
from edgephi.flash.source import BundleSource, check_has
from edgephi.steps import Step, silent
from edgephi.store.check import Checked, check_install
from edgephi.store.disk.layout import Layout, is_store
from edgephi.store.install import BATCH_BYTES, Install, Outcome, WantedFile
from edgephi.store.preflight import InstallOptions


def flash_folder(bundle: Path, root: Path, options: InstallOptions, *, step: Step = silent) -> Outcome:
    """Install the bundle in a folder into the store at `root`, and make it the active one.

    Raises as `Install` does, and BadBundleError when a file is not what the manifest says.
    """
    return flash_source(folder_source(bundle), root, options, step=step)


def flash_source(
    source: BundleSource, root: Path, options: InstallOptions, *, step: Step = silent
) -> Outcome:
    """Install a bundle, wherever it comes from, into the store at `root`, and make it the active one."""
    options = dataclasses.replace(options, beside_base=source.base is not None)
    with Install.begin(root, source.manifest, source.signature, options=options, step=step) as install:
        if install.wanted:
            check_has(source, install.wanted, where=str(root))
            with step("copy", install.wanted_bytes) as done:
                for sent in _copied(source, install):
                    done(sent)
        return install.finish(step)


def check_source(
    source: BundleSource, root: Path, options: InstallOptions, *, step: Step = silent
) -> Checked:
    """What `flash_source` would come to; writes nothing. Raises as it does before the bundle answers."""
    options = dataclasses.replace(options, beside_base=source.base is not None)
    checked, wanted = check_install(root, source.manifest, source.signature, options=options, step=step)
    check_has(source, wanted, where=str(root))
    return checked


def folder_source(bundle: Path) -> BundleSource:
    """The bundle in a folder. Raises BadBundleError when there is none."""
    data, signature = read_identity(bundle)
    manifest = read_manifest(bundle)
    return BundleSource(
        str(bundle),
        data,
        signature,
        functools.partial(read_chunks, bundle),
        is_local=True,
        base=manifest.base if is_artifact(bundle, manifest) else None,
    )


def check_apart(source: BundleSource, root: Path) -> None:
    """Refuse a bundle that was put among the files of the store that it is for. Raises UsageError.

    One that the store itself holds may be given: it is proven again, and nothing is copied.
    """
    if not source.is_local or not is_store(root):
        return
    bundle, store = Path(os.path.realpath(source.name)), Path(os.path.realpath(root))
    if bundle.is_relative_to(store) and bundle.parent != Layout(store).generations:
        raise UsageError(
            f"{source.name}: expected a bundle from outside of the store {root}, found one within it",
            hint="move it out: a store holds its own files only",
        )


def read_identity(bundle: Path) -> tuple[bytes, bytes | None]:
    """The bytes of a bundle's manifest and of its signature, None without one. Raises BadBundleError."""
    manifest = read_manifest(bundle)  # says what is wrong with it, in words about this folder
    # A pipe would wait forever, a link lead anywhere.
    check_files(bundle, manifest, quick=True, entries=entries_in(bundle, manifest))
    signature = bundle / SIGNATURE_NAME
    return (bundle / MANIFEST_NAME).read_bytes(), _read(signature)


def read_chunks(bundle: Path, file: WantedFile) -> Iterator[tuple[int, memoryview]]:
    """Offset and bytes of the wanted chunks of a file; the bytes hold until the next is asked for."""
    path = bundle / file.path
    buffer = bytearray(max(chunk.size for chunk in file.chunks))
    view = memoryview(buffer)
    try:
        with path.open("rb", buffering=0) as source:
            os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            for chunk in file.chunks:
                done = 0
                while done < chunk.size:
                    count = os.preadv(source.fileno(), [view[done : chunk.size]], chunk.offset + done)
                    if not count:
                        raise BadBundleError(
                            f"{path}: expected {chunk.offset + chunk.size} bytes or more, "
                            f"found {chunk.offset + done}",
                            hint="copy the bundle again, or build it again",
                        )
                    done += count
                yield chunk.offset, view[: chunk.size]
    except FileNotFoundError:
        raise BadBundleError(
            f"{path}: expected a file, found none", hint="copy the bundle again, or build it again"
        ) from None


def _copied(source: BundleSource, install: Install) -> Iterator[int]:
    """Hand all wanted chunks over; yields the bytes of each. The disk writes behind, a batch at a time."""
    waiting: Future[int] | None = None
    since = 0
    with ThreadPoolExecutor(1) as behind:
        try:
            for file in install.wanted:
                for offset, data in source.read_chunks(file):
                    if source.is_local:
                        install.write_in_order(file.sha256, offset, data).result()
                    else:
                        install.write(file.sha256, offset, data)
                    since += len(data)
                    if since >= BATCH_BYTES:
                        if waiting is not None:
                            waiting.result()
                        waiting = behind.submit(install.acknowledge)
                        since = 0
                    yield len(data)
            if waiting is not None:
                waiting.result()
        except BaseException:
            # What came over a slow network before a cut or Ctrl-C shall not come again.
            with contextlib.suppress(EdgephiError):
                if waiting is not None:
                    waiting.result()
                install.acknowledge()
            raise


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_MANIFEST_BYTES * 2)
    except FileNotFoundError:
        return None
