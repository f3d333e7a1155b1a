"""Get a bundle out of a registry, into a folder; what has arrived before a cut is not fetched again."""

import hashlib
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.manifest import MANIFEST_NAME, Manifest, decode_manifest
from edgephi.bundle.unfinished import check_destination, seal, unfinished_bundle
from edgephi.flash.oci.blobs import read_blob, read_whole_blob
from edgephi.flash.oci.connection import RegistryConnection, connect
from edgephi.flash.oci.manifests import digest_of, read_manifest
from edgephi.flash.oci.modelpack import Layer, check_layers, read_layers
from edgephi.flash.oci.reference import Reference
from edgephi.steps import Step

_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Remote:
    """A bundle in a registry, before any of its files is read: `digest` names its artifact.

    `layers` are its files by their paths, held against `manifest`, whose bytes are `manifest_bytes`.
    """

    digest: str
    manifest: Manifest
    manifest_bytes: bytes
    layers: dict[str, Layer]


@dataclass(frozen=True)
class Pulled:
    """A bundle that was pulled. `received_bytes` came over the wire, `kept_bytes` had come before a cut."""

    digest: str
    received_bytes: int
    kept_bytes: int


def open_remote(connection: RegistryConnection) -> Remote:
    """Look at the bundle under the connection's reference: two small documents, held against each other.

    Raises BadBundleError when it is no bundle, BadInputError, TransportError.
    """
    where = str(connection.reference)
    artifact = read_manifest(connection)
    layers = read_layers(artifact, where=where)
    own = layers[MANIFEST_NAME]
    data = read_whole_blob(connection, own.digest, own.size)
    manifest = decode_manifest(data, where=f"{where}: {MANIFEST_NAME}")
    check_layers(layers, manifest, where=where)
    return Remote(digest_of(artifact), manifest, data, layers)


def pull_bundle(reference: Reference, destination: Path, step: Step, *, insecure: bool = False) -> Pulled:
    """Get a bundle of a registry as the folder `destination`, which must not exist yet.

    Every file is held against its digest, which is that of `bundle.json` too. Until all of them are there
    they lie beside, in `.NAME.pull`, and stay there after a cut or Ctrl-C: the next call goes on with them.
    Raises UsageError, DoesNotFitError, BadBundleError, BadInputError, TransportError.
    """
    check_destination(destination)
    parts = destination.absolute().parent / f".{destination.name}.pull"
    with connect(reference, insecure=insecure) as connection:
        remote = open_remote(connection)
        blobs = {layer.digest: layer for layer in remote.layers.values()}
        total = sum(layer.size for layer in blobs.values())
        missing = total - sum(_kept(parts / layer.digest, layer) for layer in blobs.values())
        with unfinished_bundle(destination, needs_bytes=missing) as partial:
            _open_parts(parts, wanted=blobs.keys())
            with step("pull", total) as progress:
                received = sum(
                    _fetch(connection, layer, parts / layer.digest, progress) for layer in blobs.values()
                )
            _assemble(remote, parts, partial)
            seal(partial, destination)
            shutil.rmtree(parts, ignore_errors=True)
    return Pulled(remote.digest, received, total - received)


def _kept(part: Path, layer: Layer) -> int:
    """The bytes of a file that have come before."""
    return min(part.stat().st_size, layer.size) if part.is_file() else 0


def _open_parts(parts: Path, *, wanted: Collection[str]) -> None:
    """Have the folder for what arrives; what belongs to another bundle goes."""
    parts.mkdir(exist_ok=True)
    for part in parts.iterdir():
        if part.name not in wanted:
            part.unlink()


def _fetch(connection: RegistryConnection, layer: Layer, part: Path, progress: Callable[[int], None]) -> int:
    """Have the whole blob in the file `part`, held against its digest; returns the bytes received."""
    sha256 = hashlib.sha256()
    received = 0
    with part.open("a+b", buffering=0) as file:
        file.seek(0)
        while data := file.read(_BUFFER_BYTES):
            sha256.update(data)
            progress(len(data))
        start = file.tell()
        for data in read_blob(connection, layer.digest, start, layer.size):
            file.write(data)
            sha256.update(data)
            received += len(data)
            progress(len(data))
    found = f"sha256:{sha256.hexdigest()}"
    if found != layer.digest:
        part.unlink()
        raise connection.damaged(layer.path, layer.digest, found)
    return received


def _assemble(remote: Remote, parts: Path, partial: Path) -> None:
    """Give the files their names in the unfinished bundle."""
    named: dict[str, Path] = {}
    for layer in remote.layers.values():
        path = partial / layer.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if layer.digest in named:
            shutil.copyfile(named[layer.digest], path)
        else:
            (parts / layer.digest).rename(path)
            named[layer.digest] = path
