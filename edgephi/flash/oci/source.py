"""Flash from a registry: a device asks for ranges of blobs, and only for the chunks that it lacks."""

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence

from edgephi.bundle.chunks import Chunk
from edgephi.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME
from edgephi.flash.oci.blobs import read_blob, read_whole_blob
from edgephi.flash.oci.connection import RegistryConnection, connect
from edgephi.flash.oci.manifests import read_manifest
from edgephi.flash.oci.modelpack import read_layers
from edgephi.flash.oci.reference import Reference
from edgephi.flash.source import BundleSource
from edgephi.store.install import WantedFile


@contextlib.contextmanager
def open_source(reference: Reference, *, insecure: bool = False) -> Iterator[BundleSource]:
    """The bundle under `reference`, as long as the block runs.

    What the manifest says is not read here: the store first asks who vouches for it. Raises BadBundleError
    when it is no artifact of a bundle, BadInputError when there is none or we are not let in, TransportError.
    """
    where = str(reference)
    with connect(reference, insecure=insecure) as connection:
        layers = read_layers(read_manifest(connection), where=where)
        found = [
            read_whole_blob(connection, layer.digest, layer.size)
            for layer in map(layers.get, (MANIFEST_NAME, SIGNATURE_NAME))
            if layer is not None
        ]
        signature = found[1] if len(found) > 1 else None
        yield BundleSource(where, found[0], signature, functools.partial(_read_chunks, connection))


def _read_chunks(connection: RegistryConnection, file: WantedFile) -> Iterator[tuple[int, memoryview]]:
    """Offset and bytes of the wanted chunks of a file; those that lie side by side are one request."""
    buffer = memoryview(bytearray(max(chunk.size for chunk in file.chunks)))
    for run in _runs(file.chunks):
        end = run[-1].offset + run[-1].size
        arriving = read_blob(connection, f"sha256:{file.sha256}", run[0].offset, end)
        rest = memoryview(b"")
        for chunk in run:
            filled = 0
            while filled < chunk.size:
                rest = rest or memoryview(next(arriving))
                part = rest[: chunk.size - filled]
                buffer[filled : filled + len(part)] = part
                filled += len(part)
                rest = rest[len(part) :]
            yield chunk.offset, buffer[: chunk.size]


def _runs(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """Chunks in runs without a gap."""
    runs = [[chunks[0]]]
    for before, chunk in itertools.pairwise(chunks):
        if before.offset + before.size == chunk.offset:
            runs[-1].append(chunk)
        else:
            runs.append([chunk])
    return runs
