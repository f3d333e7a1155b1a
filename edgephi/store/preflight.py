"""Whether a bundle may be installed, from its manifest alone: nothing has moved or was written yet."""

import os
from dataclasses import dataclass
from pathlib import Path

from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError, DoesNotFitError, NotSupportedError
from edgephi.manifest import LARGEST_MANIFEST_BYTES, Manifest, decode_manifest
from edgephi.runtime.bundle_files import check_architecture
from edgephi.runtime.engines import ADAPTERS
from edgephi.runtime.memory import available_memory, check_memory
from edgephi.store.activation import floors_of
from edgephi.store.environment import Runtime, choose_runtime
from edgephi.store.floors import check_floors
from edgephi.store.layout import Layout
from edgephi.store.objects import plain_size
from edgephi.store.place import check_root
from edgephi.store.recover import read_settled_state
from edgephi.store.trust import authenticate

# A disk that is full to the last byte breaks whatever else runs on the device.
_RESERVE_SHARE = 0.03
_LARGEST_RESERVE_BYTES = 1 << 30
_FOLDER_BYTES = 1 << 20
_BLOCK_BYTES = 512


@dataclass(frozen=True)
class InstallOptions:
    """How to install. `prove` False: for another machine, which alone can tell whether the bundle runs there.

    `interpreter`: the Python to run the bundle with; None looks for one. `lock_wait_seconds`: how long to
    wait for another process that changes the store. `probe_seconds`: how long loading and answering may take;
    None is by the size of the weights.
    """

    allow_downgrade: bool = False
    prove: bool = True
    interpreter: str | None = None
    lock_wait_seconds: float = 0.0
    probe_seconds: float | None = None


@dataclass(frozen=True)
class Admitted:
    """A manifest that passed. `signer` is the name of the trusted key that vouches; None: none is asked.

    `runtime` is what will run it; None when that is another machine.
    """

    manifest: Manifest
    signer: str | None
    runtime: Runtime | None


def preflight(root: Path, data: bytes, signature: bytes | None, options: InstallOptions) -> Admitted:
    """Check all that a manifest tells: signature, form, release, architecture, engine, memory, disk.

    Raises UsageError, BadBundleError, NotSupportedError or DoesNotFitError. Reads only.
    """
    check_root(root)
    layout = Layout(root)
    manifest, signer = check_identity(layout, data, signature, allow_downgrade=options.allow_downgrade)
    runtime = check_machine(layout, manifest, interpreter=options.interpreter) if options.prove else None
    check_disk(layout, manifest, runtime.needs_bytes if runtime else 0)
    return Admitted(manifest, signer, runtime)


def check_identity(
    layout: Layout, data: bytes, signature: bytes | None, *, allow_downgrade: bool
) -> tuple[Manifest, str | None]:
    """Check who vouches for a manifest, that it is one, and that its release is not too old.

    Returns the manifest and the name of the key.
    """
    if len(data) > LARGEST_MANIFEST_BYTES:
        raise BadBundleError(
            f"bundle.json: expected at most {LARGEST_MANIFEST_BYTES} bytes, found {len(data)}",
            hint="build the bundle again",
        )
    state = read_settled_state(layout)
    signer = authenticate(layout.trust, data, signature, required=state.keys_required)
    manifest = decode_manifest(data)
    check_floors(manifest, floors_of(state, manifest.name), allow_downgrade=allow_downgrade)
    return manifest, signer


def check_machine(layout: Layout, manifest: Manifest, *, interpreter: str | None = None) -> Runtime:
    """Check that this machine can run a bundle: architecture, engine, memory. Returns what will run it.

    Raises NotSupportedError or DoesNotFitError. Reads only.
    """
    check_architecture(manifest)
    check_engine(manifest)
    runtime = choose_runtime(layout, manifest, interpreter=interpreter)
    check_room(manifest, available_memory())
    return runtime


def check_engine(manifest: Manifest) -> None:
    """Raise NotSupportedError unless this edgephi knows the manifest's engine."""
    if manifest.target.engine not in ADAPTERS:
        raise NotSupportedError(
            f"{manifest.name}: made for the engine {manifest.target.engine!r}, "
            f"this edgephi runs {', '.join(ADAPTERS)}",
            hint="use the edgephi version that wrote this bundle, or build it for another target",
        )


def check_room(manifest: Manifest, available: int) -> None:
    """Raise DoesNotFitError unless the model, with its shortest context, fits into `available` bytes."""
    served, _ = check_memory(manifest, available)
    unused = (manifest.limits.context - served) * manifest.requires.memory_per_token_bytes
    least = manifest.requires.memory_bytes - unused
    if least > available:
        raise DoesNotFitError(
            f"{manifest.name}: needs {least / 1e9:.2f} GB of memory, {available / 1e9:.2f} GB are available",
            hint="stop what runs on the device while it is flashed, or build the model smaller",
        )


def check_disk(layout: Layout, manifest: Manifest, environment_bytes: int) -> None:
    """Raise DoesNotFitError unless what is not there yet fits, and leaves the disk a reserve."""
    sizes = {entry.sha256: entry.size for entry in manifest.files}
    missing = sum(size - _held(layout, sha256, size) for sha256, size in sizes.items())
    needed = missing + environment_bytes + _FOLDER_BYTES
    place = layout.root if layout.root.is_dir() else layout.root.absolute().parent
    disk = os.statvfs(place)
    free, reserve = disk.f_bavail * disk.f_frsize, reserve_bytes(disk.f_blocks * disk.f_frsize)
    if needed + reserve > free:
        raise DoesNotFitError(
            f"{layout.root}: needs {needed / 1e6:,.1f} MB of disk and a reserve of {reserve / 1e6:,.1f} MB, "
            f"{free / 1e6:,.1f} MB are free",
            hint=f"free some space; `{edgephi_command('gc', layout.root)}` "
            "removes what no generation in use needs",
        )


def reserve_bytes(disk_bytes: int) -> int:
    """What stays free of a disk of that size."""
    return min(int(_RESERVE_SHARE * disk_bytes), _LARGEST_RESERVE_BYTES)


def _held(layout: Layout, sha256: str, size: int) -> int:
    """How many bytes of a file the disk holds already, as an object or as a part."""
    if plain_size(layout.object(sha256)) == size:
        return size
    try:
        return min(layout.part(sha256).stat().st_blocks * _BLOCK_BYTES, size)
    except OSError:
        return 0
