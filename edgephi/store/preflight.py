"""Whether a bundle may be installed, from its manifest alone: nothing has moved or was written yet."""

from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.files import check_architecture
from edgephi.bundle.manifest import LARGEST_MANIFEST_BYTES, Manifest, decode_manifest
from edgephi.commands import edgephi_command
from edgephi.engines.facts.registry import known_engines
from edgephi.errors import BadBundleError, BadInputError, DoesNotFitError, NotSupportedError
from edgephi.machine.memory import available_memory, check_memory
from edgephi.store.activation import floors_of
from edgephi.store.adapters_base import check_base
from edgephi.store.disk.free_space import check_free_disk
from edgephi.store.disk.layout import Layout
from edgephi.store.disk.objects import plain_size
from edgephi.store.environments.environment import Runtime, choose_runtime, has_unsigned_environment
from edgephi.store.environments.record import UNSIGNED
from edgephi.store.generations import digest_of
from edgephi.store.place import check_root
from edgephi.store.recover import read_settled_state
from edgephi.store.trust.authenticate import authenticate
from edgephi.store.trust.floors import check_floors
from edgephi.store.trust.trusted_keys import read_trusted_keys

_FOLDER_BYTES = 1 << 20
_BLOCK_BYTES = 512


@dataclass(frozen=True)
class InstallOptions:
    """How to install. `prove` False: for another machine, which alone can tell whether the bundle runs there.

    `interpreter`: the Python to run the bundle with; None looks for one. `lock_wait_seconds`: how long to
    wait for another process that changes the store. `probe_seconds`: how long loading and answering may take;
    None is by the size of the weights. `unsigned_wheels`: take the wheels of a bundle, which are code, also
    where no key vouches for them. Once said of a bundle, it holds for that very bundle in this store.
    `beside_base`: only the adapters of the bundle come, and the store must have what they were made for.
    """

    allow_downgrade: bool = False
    prove: bool = True
    interpreter: str | None = None
    lock_wait_seconds: float = 0.0
    probe_seconds: float | None = None
    unsigned_wheels: bool = False
    beside_base: bool = False


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
    if options.beside_base:
        check_base(layout, manifest)
    runtime = None
    if options.prove:
        runtime = check_machine(
            layout,
            manifest,
            interpreter=options.interpreter,
            signer=signer,
            unsigned_wheels=options.unsigned_wheels
            or has_unsigned_environment(layout, digest_of(data), manifest),
        )
    check_disk(layout, manifest, runtime.needs_bytes if runtime else 0)
    return Admitted(manifest, signer, runtime)


def check_identity(
    layout: Layout, data: bytes, signature: bytes | None, *, allow_downgrade: bool
) -> tuple[Manifest, str | None]:
    """Check who vouches for a manifest, that it is one, and that its release is not too old.

    The active release is never that, also after a roll-back: flashed again, it is mended. Returns the
    manifest and the name of the key.
    """
    if len(data) > LARGEST_MANIFEST_BYTES:
        raise BadBundleError(
            f"bundle.json: expected at most {LARGEST_MANIFEST_BYTES} bytes, found {len(data)}",
            hint="build the bundle again",
        )
    state = read_settled_state(layout)
    signer = authenticate(layout.trust, data, signature, required=state.keys_required)
    manifest = decode_manifest(data)
    is_active = digest_of(data) == state.current
    check_floors(manifest, floors_of(state, manifest.name), allow_downgrade=allow_downgrade or is_active)
    return manifest, signer


def check_machine(
    layout: Layout,
    manifest: Manifest,
    *,
    interpreter: str | None = None,
    signer: str | None = None,
    unsigned_wheels: bool = False,
) -> Runtime:
    """Check that this machine can run a bundle: architecture, engine, memory. Returns what will run it.

    `signer` is the trusted key that vouches for the bundle. Raises NotSupportedError or DoesNotFitError, and
    BadBundleError when only wheels would run it for which none does, unless `unsigned_wheels`. Reads only.
    """
    check_architecture(manifest)
    check_engine(manifest)
    vouched_by = _fingerprint(layout, signer)
    runtime = choose_runtime(layout, manifest, interpreter=interpreter, vouched_by=vouched_by)
    if runtime.wheelhouse is not None and vouched_by == UNSIGNED and not unsigned_wheels:
        raise BadBundleError(
            f"{manifest.name}: expected a key of this store to vouch for the wheels that would run it, "
            "found a store without keys",
            hint="sign the bundle, and have the store trust the key: "
            f"`{edgephi_command('trust', 'add', layout.root, 'NAME.pub')}`; or install edgephi there; "
            "or flash with --unsigned-wheels, which runs code that nobody signed as this store's user",
        )
    check_fits_memory(manifest, available_memory())
    return runtime


def check_voucher(layout: Layout, signer: str | None, runtime: Runtime) -> None:
    """Raise BadInputError when not the key vouches for a bundle's wheels that did when its flash began."""
    now = _fingerprint(layout, signer)
    if runtime.wheelhouse is not None and now != runtime.vouched_by:
        raise BadInputError(
            f"{layout.trust}: expected {runtime.vouched_by[:12]} to vouch for the bundle, found {now[:12]}: "
            "the keys were changed meanwhile",
            hint="try again",
        )


def _fingerprint(layout: Layout, signer: str | None) -> str:
    """The fingerprint of the trusted key of that name; `UNSIGNED` where none vouches."""
    if signer is None:
        return UNSIGNED
    keys = {known.name: known.key.fingerprint for known in read_trusted_keys(layout.trust)}
    if signer not in keys:
        raise BadInputError(
            f"{layout.trust}: expected the key {signer!r}, which vouches for the bundle, found none",
            hint="somebody changed the keys right now: try again",
        )
    return keys[signer]


def check_engine(manifest: Manifest) -> None:
    """Raise NotSupportedError unless this edgephi knows the manifest's engine."""
    if manifest.target.engine not in known_engines():
        raise NotSupportedError(
            f"{manifest.name}: made for the engine {manifest.target.engine!r}, "
            f"this edgephi runs {', '.join(known_engines())}",
            hint="use the edgephi version that wrote this bundle, or build it for another target",
        )


def check_fits_memory(manifest: Manifest, available: int) -> None:
    """Raise DoesNotFitError unless the model, with its shortest context, fits into `available` bytes."""
    served, _ = check_memory(manifest, available)
    least = manifest.memory_at(served)
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
    check_free_disk(layout, needed)


def _held(layout: Layout, sha256: str, size: int) -> int:
    """How many bytes of a file the disk holds already, as an object or as a part."""
    if plain_size(layout.object(sha256)) == size:
        return size
    try:
        return min(layout.part(sha256).stat().st_blocks * _BLOCK_BYTES, size)
    except OSError:
        return 0
