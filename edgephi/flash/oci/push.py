"""Put a bundle into a registry; what the registry has already is not sent."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.adapter_artifact import entries_in
from edgephi.bundle.files import check_files
from edgephi.bundle.manifest import Manifest, read_manifest
from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError, UsageError
from edgephi.flash.bill_of_materials.written import Bill
from edgephi.flash.oci.attach_bill import Attached, attach_bill
from edgephi.flash.oci.blobs import has_blob
from edgephi.flash.oci.connection import RegistryConnection, connect
from edgephi.flash.oci.manifests import digest_of, has_manifest, write_manifest
from edgephi.flash.oci.modelpack import Artifact, make_artifact
from edgephi.flash.oci.reference import Reference
from edgephi.flash.oci.upload import write_blob
from edgephi.steps import Step


@dataclass(frozen=True)
class Pushed:
    """Where a bundle lies now: under the tag of `reference`, and for ever under `digest`.

    `sent_bytes` of the bundle went over the wire, `reused_bytes` were in the registry. `bill` is the
    digest of its bill of materials' own artifact, and `signature` that of the signature's, if there was one.
    """

    reference: Reference
    digest: str
    sent_bytes: int
    reused_bytes: int
    bill: str | None = None
    signature: str | None = None


def push_bundle(
    bundle: Path, reference: Reference, step: Step, *, insecure: bool = False, bill: Bill | None = None
) -> Pushed:
    """Put the bundle in folder `bundle` into a registry, under the tag of `reference`.

    The files come first and the tag last, so that the tag never names half a bundle, nor one whose `bill` is
    not there yet. The registry holds every file against its digest. Raises UsageError for a reference without
    a tag, BadBundleError when the folder is not what its manifest says, BadInputError when we may not write
    there, TransportError.
    """
    if reference.by_digest:
        raise UsageError(
            f"{reference}: expected a tag to push to, found a digest", hint="write REGISTRY/NAME:TAG"
        )
    manifest = read_manifest(bundle)
    check_files(bundle, manifest, quick=True, entries=entries_in(bundle, manifest))
    artifact = make_artifact(bundle, manifest)
    blobs = {layer.digest: layer.size for layer in artifact.layers}  # equal files are one blob
    total = len(artifact.config) + sum(blobs.values())
    with connect(reference, insecure=insecure) as connection:
        is_there = has_manifest(connection, artifact.digest)
        sent = 0 if is_there else _send_missing(connection, bundle, manifest, artifact, step)
        attached = Attached()
        if bill is not None:
            # Not every registry takes what refers to a manifest that it has not.
            write_manifest(connection, artifact.manifest, version=artifact.digest)
            attached = attach_bill(connection, artifact, bill, manifest.created)
        if not is_there:
            write_manifest(connection, artifact.manifest)
    return Pushed(reference, artifact.digest, sent, total - sent, attached.bill, attached.signature)


def _send_missing(
    connection: RegistryConnection, bundle: Path, manifest: Manifest, artifact: Artifact, step: Step
) -> int:
    """Send the files that the registry has not; returns their bytes."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_bytes(artifact.config)
        files = {layer.digest: bundle / layer.path for layer in artifact.layers}
        files[digest_of(artifact.config)] = config
        missing = {digest: file for digest, file in files.items() if not has_blob(connection, digest)}
        for file in missing.values():
            if manifest.base is not None and not file.is_file():
                base = manifest.base
                raise BadBundleError(
                    f"{bundle}: adapters for {base.name} {base.sequence} ({base.sha256[:12]}), expected that "
                    f"bundle in the registry, found none of its {file.relative_to(bundle).as_posix()}",
                    hint="push that one into the same repository first: "
                    f"`{edgephi_command('push', 'BUNDLE', 'REGISTRY/NAME:TAG')}`",
                )
        total = sum(file.stat().st_size for file in missing.values())
        if missing:
            with step("push", total) as progress:
                for digest, file in missing.items():
                    write_blob(connection, digest, file, progress)
    return total
