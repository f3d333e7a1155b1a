"""Going back to the generation that ran before: checked as one that is flashed, and no network.

    authenticate -> security floor -> this machine -> hash every file -> probe -> trial, swap, commit

What was right when it was installed need not be right now: a key may have been removed since, a bit may have
flipped, the engine may be another one. Whatever is refused leaves the store as it was.
"""

from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.artifact.foreign_files import check_artifact
from edgephi.bundle.files import check_files
from edgephi.bundle.manifest import Manifest, decode_manifest
from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError, BadInputError
from edgephi.steps import Step, silent
from edgephi.store.activation import activate, floors_of
from edgephi.store.disk.device_errors import device_errors
from edgephi.store.disk.hashing import files_sha256, forget_cached
from edgephi.store.disk.in_use import is_open
from edgephi.store.disk.layout import Layout, check_store
from edgephi.store.disk.lock import StoreLock
from edgephi.store.environments.environment import has_unsigned_environment
from edgephi.store.generations import manifest_bytes, signature_bytes
from edgephi.store.preflight import check_disk, check_machine, check_voucher
from edgephi.store.proving.probe import ProbeResult
from edgephi.store.proving.proof import prove_generation
from edgephi.store.recover import recover_locked
from edgephi.store.state import State, read_state
from edgephi.store.trust.authenticate import authenticate
from edgephi.store.trust.floors import check_rollback


@dataclass(frozen=True)
class RolledBack:
    """The generation that is active now, and the digest of the one that was and is now `previous`.

    `probe` None: another machine will have to prove it. `signer`: the trusted key that vouches for it.
    `still_open`: a process that began with the one that was goes on with it.
    """

    digest: str
    name: str
    sequence: int
    left: str | None
    probe: ProbeResult | None
    signer: str | None
    still_open: bool = False


def roll_back(
    root: Path,
    *,
    prove: bool = True,
    interpreter: str | None = None,
    lock_wait_seconds: float = 0.0,
    step: Step = silent,
) -> RolledBack:
    """Make the previous generation the active one; doing it again goes forward again.

    `prove` False: for another machine, which alone can tell whether the bundle runs there. `interpreter`: the
    Python to run it with; None looks for one. `lock_wait_seconds`: how long to wait for another process that
    changes the store.

    Raises UsageError where there is no store, BadInputError without a previous generation, BadBundleError
    when no trusted key vouches for that one, it is below the security floor or not as it was installed,
    NotSupportedError or DoesNotFitError when this machine cannot run it, ProbeFailedError when it does not
    answer as it must, StoreBusyError while another changes the store.
    """
    check_store(root)
    layout = Layout(root)
    with device_errors(root), StoreLock.take(layout, "rollback", wait_seconds=lock_wait_seconds, step=step):
        recover_locked(layout)
        state = read_state(layout)
        digest = state.previous
        if digest is None:
            raise BadInputError(
                f"{root}: expected a previous generation to go back to, found none",
                hint="the first bundle of a store has none; flash another one",
            )
        manifest, signer = _identified(layout, digest, state)
        runtime = None
        if prove:
            runtime = check_machine(
                layout,
                manifest,
                interpreter=interpreter,
                signer=signer,
                unsigned_wheels=has_unsigned_environment(layout, digest, manifest),
            )
        if runtime is not None and runtime.needs_bytes:
            check_disk(layout, manifest, runtime.needs_bytes)
        _check_content(layout, digest, manifest, step)
        result = None
        if runtime is not None:
            result = prove_generation(
                layout,
                digest,
                manifest,
                runtime,
                step=step,
                confirm=lambda: check_voucher(layout, _identified(layout, digest, state)[1], runtime),
            )
        _, signer = _identified(layout, digest, state)  # a key may have been removed meanwhile
        activate(
            layout,
            digest,
            manifest,
            is_signed=signer is not None,
            is_proven=result is not None or digest not in state.unproven,
        )
        still_open = state.current is not None and is_open(layout, state.current)
    return RolledBack(digest, manifest.name, manifest.sequence, state.current, result, signer, still_open)


def _identified(layout: Layout, digest: str, state: State) -> tuple[Manifest, str | None]:
    """The manifest of a generation and the name of the key that vouches for it now."""
    try:
        data = manifest_bytes(layout, digest)
    except BadBundleError as error:
        raise _damaged(layout, error, f"the bundle with the digest {digest[:12]}…") from None
    signature = signature_bytes(layout, digest)
    signer = authenticate(layout.trust, data, signature, required=state.keys_required)
    manifest = decode_manifest(data, where=str(layout.manifest(digest)))
    check_rollback(manifest, floors_of(state, manifest.name))
    return manifest, signer


def _check_content(layout: Layout, digest: str, manifest: Manifest, step: Step) -> None:
    """Hold every file of a generation against the manifest, as the disk has it and not the cache."""
    generation = layout.generation(digest)
    try:
        check_files(generation, manifest, quick=True)
        paths = {entry.path: generation / entry.path for entry in manifest.files}
        for path in paths.values():
            forget_cached(path)
        with step("verify", sum(entry.size for entry in manifest.files)) as done:
            digests = files_sha256(paths.values(), done)
        for entry in manifest.files:
            found = digests[paths[entry.path]]
            if found != entry.sha256:
                what = f"sha256 {found}" if found else "that it cannot be read"
                raise BadBundleError(
                    f"{paths[entry.path]}: expected sha256 {entry.sha256}, found {what}", hint=""
                )
        check_artifact(manifest, lambda entry: paths[entry.path])
    except BadBundleError as error:
        raise _damaged(layout, error, f"{manifest.name} release {manifest.sequence}") from None


def _damaged(layout: Layout, error: BadBundleError, which: str) -> BadBundleError:
    """The same error, with a hint that mends what is not active: an older release, most likely."""
    again = edgephi_command("flash", "BUNDLE", layout.root, "--allow-downgrade")
    return BadBundleError(
        error.message,
        hint=f"what is active still is; flash {which} again, which sends what has changed and makes it the "
        f"active one: `{again}`",
    )
