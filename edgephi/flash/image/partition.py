"""From a bundle into an image of a partition: an ext4 file system that is a store with the bundle active.

The same bundle makes the same image, byte for byte: whoever gets one can make it again and compare. What was
installed here has not generated on the device that the image is for, and the store in it says so.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from edgephi.bundle.files import check_architecture
from edgephi.bundle.manifest import Manifest, decode_manifest
from edgephi.bundle.unfinished import unfinished_bundle
from edgephi.commands import shell_command
from edgephi.errors import BadBundleError, DoesNotFitError, NotSupportedError, UsageError
from edgephi.flash.folder import flash_source
from edgephi.flash.image.ext4 import BLOCK_BYTES, FileSystem, free_bytes, make_ext4
from edgephi.flash.source import BundleSource
from edgephi.steps import Step, silent
from edgephi.store.disk.durable import make_folder, rename, sync
from edgephi.store.disk.free_space import reserve_bytes
from edgephi.store.disk.layout import Layout
from edgephi.store.environments.environment import choose_runtime
from edgephi.store.generations import digest_of
from edgephi.store.preflight import InstallOptions
from edgephi.store.proving.probe import ProbeResult, prove
from edgephi.store.trust.change import trust_key
from edgephi.store.trust.trusted_keys import read_key_file

_LABEL = "edgephi"
_MEBIBYTE = 1 << 20
_LATEST = (1 << 31) - 1  # ext4 counts on, but not every tool that reads it does
# Folders, state, links and manifests beside the files: each takes a block, and some are counted twice.
_SPARE_BLOCKS = 256
_BLOCKS_OF_AN_EXTENT = 1 << 15
_SMALLEST_BYTES = 9 * _MEBIBYTE  # a journal may take less than half of a file system


@dataclass(frozen=True)
class Image:
    """An image that was written. `free_bytes` are left for the next release.

    `probe`: what the bundle answered here; None when this machine cannot run it, for the reason `unproven`.
    """

    file: Path
    size: int
    free_bytes: int
    digest: str
    manifest: Manifest
    probe: ProbeResult | None
    unproven: str


def write_image(
    source: BundleSource,
    file: Path,
    size: int | None,
    *,
    keys: Sequence[Path] = (),
    prove_here: bool = True,
    step: Step = silent,
) -> Image:
    """Write an image of `size` bytes as `file`, which must not exist yet, with a store that holds the bundle.

    The store in it trusts the keys in the files `keys`. Without a size it has room for the bundle, for a next
    one as large and for what its wheels unpack to. With `prove_here` it has to answer first, where this
    machine can run it. Raises UsageError, DoesNotFitError with both numbers, BadInputError for a file that is
    no key, BadBundleError, ProbeFailedError, NotSupportedError without e2fsprogs.
    """
    if os.path.lexists(file):
        raise UsageError(
            f"{file}: expected a file that does not exist yet, found one that does",
            hint="give another name; to write to a disk, make a file and copy that",
        )
    if source.base is not None:
        base, both = source.base, shell_command("cp", "-r", "BUNDLE/.", f"{source.name}/.", "FOLDER")
        raise BadBundleError(
            f"{source.name}: adapters for {base.name} {base.sequence} ({base.sha256[:12]}), expected a "
            "bundle that is whole, as an image holds no other",
            hint=f"give a folder with both: `{both}` puts them into an empty one, in this order",
        )
    manifest = decode_manifest(source.manifest, where=source.name)
    digest = digest_of(source.manifest)
    content = _content_bytes(manifest, len(source.manifest) + len(source.signature or b""))
    needed = _fitting(manifest, digest, content)
    if size is None:
        environment = max((wheels.installed_bytes for wheels in manifest.wheels), default=0)
        size = _fitting(manifest, digest, 2 * content + environment, reserve=True)
    elif size < needed:
        raise DoesNotFitError(
            f"{file}: needs {needed / 1e6:,.1f} MB for {manifest.name}, --size gives {size / 1e6:,.1f} MB",
            hint="give a larger --size, or none: then the next release has room too",
        )
    file_system = _file_system(manifest, digest, size // BLOCK_BYTES * BLOCK_BYTES)
    with unfinished_bundle(file, needs_bytes=2 * content) as partial:
        root, image = partial / "store", partial / "image"
        make_folder(root)  # of a mode of its own, whatever the umask
        for key in keys:
            trust_key(root, key.name, read_key_file(key).key.pem)
        flash_source(source, root, InstallOptions(prove=False), step=step)
        probe, unproven = (
            _probe_here(root, manifest, digest, step) if prove_here else (None, "it was left out")
        )
        Layout(root).lock.unlink()
        with step("write the image", 0):
            free = make_ext4(file_system, root, image)
            sync(image)
        rename(image, file)
    return Image(file, file_system.size, free, digest, manifest, probe, unproven)


def _content_bytes(manifest: Manifest, documents: int) -> int:
    """The most that a store takes on the disk which holds one bundle, and nothing else."""
    sizes = {entry.sha256: entry.size for entry in manifest.files}
    blocks = sum(
        -(-size // BLOCK_BYTES) + size // BLOCK_BYTES // _BLOCKS_OF_AN_EXTENT for size in sizes.values()
    )
    names = sum(len(entry.path.encode()) + 96 for entry in manifest.files)
    folders = len({folder for entry in manifest.files for folder in Path(entry.path).parents})
    return (blocks + folders + _SPARE_BLOCKS) * BLOCK_BYTES + 2 * names + documents


def _fitting(manifest: Manifest, digest: str, content: int, *, reserve: bool = False) -> int:
    """The size of the smallest image with room for `content` bytes, in whole mebibytes.

    With `reserve` there is also what a store leaves free. What ext4 takes for itself grows with the size, so
    it is measured and asked for again until it is enough.
    """
    size = max(content + 5 * _MEBIBYTE, _SMALLEST_BYTES)
    while True:
        size = -(-size // _MEBIBYTE) * _MEBIBYTE
        missing = content + (reserve_bytes(size) if reserve else 0)
        missing -= free_bytes(_file_system(manifest, digest, size))
        if missing <= 0:
            return size
        size += max(missing, _MEBIBYTE)


def _file_system(manifest: Manifest, digest: str, size: int) -> FileSystem:
    return FileSystem(size, len(manifest.files), UUID(digest[:32]), _time(manifest), _LABEL)


def _time(manifest: Manifest) -> int:
    """The time of everything in the image: SOURCE_DATE_EPOCH, else when the bundle was built."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    text = manifest.created if epoch is None else epoch
    try:
        if epoch is not None:
            seconds = int(epoch)
        else:
            seconds = int(datetime.fromisoformat(text).astimezone(UTC).timestamp())
    except (ValueError, OverflowError):
        seconds = -1
    if 0 <= seconds <= _LATEST:
        return seconds
    if epoch is not None:
        raise UsageError(
            f"SOURCE_DATE_EPOCH: expected seconds since 1970, found {epoch!r}",
            hint=f"unset it, or `{shell_command('date', '+%s')}`",
        )
    raise BadBundleError(
        f"created: expected a time between 1970 and 2038, found {text[:40]!r}",
        hint="set SOURCE_DATE_EPOCH to the time that the image shall have",
    )


def _probe_here(root: Path, manifest: Manifest, digest: str, step: Step) -> tuple[ProbeResult | None, str]:
    """Have the bundle answer where this machine can run it; else the reason why it cannot."""
    layout = Layout(root)
    try:
        check_architecture(manifest)
        runtime = choose_runtime(layout, manifest)
    except NotSupportedError as cause:
        return None, cause.message
    if runtime.interpreter is None:
        return None, f"{manifest.name}: its engine is not installed here"
    with step("probe", 0):
        return prove(layout.generation(digest), manifest, interpreter=runtime.interpreter), ""
