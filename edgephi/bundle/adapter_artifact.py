"""The artifact of adapters: a folder with the manifest of base and adapters, and the adapters' files alone.

Its manifest is that of a whole bundle. On a device the base's files are there already, and everywhere else
the artifact is read beside the folder of its base, whose digest it names.
"""

import functools
import os
from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.chunks import FileEntry
from edgephi.bundle.files import check_files
from edgephi.bundle.manifest import MANIFEST_NAME, Manifest, read_manifest
from edgephi.bundle.switched_adapter import adapter_named
from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError, BadInputError


@dataclass(frozen=True)
class OpenedBundle:
    """A bundle whose files were looked at, and its adapters, which lie in the folder `beside`.

    `adapter` is the name of the one that was asked for, or "".
    """

    folder: Path
    manifest: Manifest
    beside: Path
    adapter: str = ""

    def place(self, entry: FileEntry) -> Path:
        """Where a file of the manifest lies."""
        return (self.beside if entry.path in self._own else self.folder) / entry.path

    @functools.cached_property
    def _own(self) -> frozenset[str]:
        """The paths of the adapters' files."""
        return frozenset(entry.path for entry in own_entries(self.manifest))


def open_bundle(folder: Path, adapter: str | os.PathLike[str] | None = None) -> OpenedBundle:
    """Check that the files of a bundle are there, and those of the adapter that is asked for.

    `adapter` is the name of one of its adapters, or the folder of an artifact for this bundle, whose first
    adapter is meant, or FOLDER:NAME for another; None or "" is none. Raises BadBundleError, and
    BadInputError when there is no such adapter.
    """
    manifest = read_manifest(folder)
    check_whole(folder, manifest)
    check_files(folder, manifest, quick=True)
    if adapter is None or adapter == "":
        return OpenedBundle(folder, manifest, folder)
    name, beside, chosen = os.fspath(adapter), Path(adapter), ""
    if any(each.name == name for each in manifest.adapters):
        return OpenedBundle(folder, manifest, folder, name)
    if not (beside / MANIFEST_NAME).is_file():
        if beside.is_dir():
            raise BadInputError(
                f"{beside}: expected an artifact with adapters, found no {MANIFEST_NAME}",
                hint=f"`{_build_command(folder, beside)}` makes one of what PEFT saved",
            )
        place, _, name = name.rpartition(":")
        if not place or not (Path(place) / MANIFEST_NAME).is_file():
            adapter_named(manifest.adapters, os.fspath(adapter))
        beside, chosen = Path(place), name
    adapted = read_manifest(beside)
    _check_base(adapted, beside, manifest, folder)
    check_files(beside, adapted, quick=True, entries=entries_in(beside, adapted))
    named = adapter_named(adapted.adapters, chosen) if chosen else adapted.adapters[0]
    return OpenedBundle(folder, adapted, beside, named.name)


def entries_in(folder: Path, manifest: Manifest) -> tuple[FileEntry, ...]:
    """The files that the folder must hold: all of them, or the adapters' alone where it is their artifact."""
    return own_entries(manifest) if is_artifact(folder, manifest) else manifest.files


def own_entries(manifest: Manifest) -> tuple[FileEntry, ...]:
    """The files of a manifest that its base has not: none where there is no base."""
    base = manifest.base
    of_base = set(base.files) if base else {entry.path for entry in manifest.files}
    return tuple(entry for entry in manifest.files if entry.path not in of_base)


def is_artifact(folder: Path, manifest: Manifest) -> bool:
    """Whether the folder holds adapters alone, and none of the files of the base that they go beside."""
    base = manifest.base
    return base is not None and not any(os.path.lexists(folder / path) for path in base.files)


def check_whole(folder: Path, manifest: Manifest) -> None:
    """Raise BadBundleError for a folder that holds adapters alone."""
    if manifest.base is not None and is_artifact(folder, manifest):
        base = manifest.base
        raise BadBundleError(
            f"{folder}: expected a bundle, found adapters for {base.name} {base.sequence} "
            f"({base.sha256[:12]}) without it",
            hint=f"give that bundle, and this folder as its adapter: "
            f"`{edgephi_command('run', 'BUNDLE', '--adapter', folder, 'your question')}`",
        )


def _check_base(adapted: Manifest, artifact: Path, manifest: Manifest, bundle: Path) -> None:
    """Raise BadBundleError unless the artifact's adapters were made for exactly the bundle in a folder.

    That may have adapters beside it: then it is its base that they must be made for.
    """
    base = adapted.base
    if base is None:
        raise BadBundleError(
            f"{artifact}: expected an artifact with adapters, found a bundle without any",
            hint=f"`{_build_command(bundle, 'ADAPTER')}` makes one of what PEFT saved",
        )
    import hashlib  # brings in OpenSSL: not for those without an adapter

    digest = hashlib.sha256((bundle / MANIFEST_NAME).read_bytes()).hexdigest()
    found = manifest.base.sha256 if manifest.base else digest
    if base.sha256 not in (digest, found):
        again = (
            "" if manifest.base else f", or make it again for this one: `{_build_command(bundle, 'ADAPTER')}`"
        )
        raise BadBundleError(
            f"{artifact}: made for {base.name} {base.sequence} ({base.sha256[:12]}), found {bundle}, "
            f"which is {found[:12]}",
            hint=f"give the bundle that it was made for{again}",
        )
    if not is_made_for(adapted, manifest, digest):
        raise BadBundleError(
            f"{artifact}: expected files of the base as it has them, found others",
            hint="do not use this artifact; make it again",
        )


def is_made_for(adapted: Manifest, manifest: Manifest, digest: str) -> bool:
    """Whether adapters were made for exactly the bundle with that manifest and digest, or for its base."""
    base = adapted.base
    if base is None:
        return False
    of_base = {entry.path: entry for entry in manifest.files}
    if digest != base.sha256:
        if manifest.base is None or manifest.base.sha256 != base.sha256:
            return False
        of_base = {path: of_base[path] for path in manifest.base.files}
    own = set(base.files)
    return of_base == {entry.path: entry for entry in adapted.files if entry.path in own}


def _build_command(bundle: Path, adapter: Path | str) -> str:
    return edgephi_command("adapter", "build", bundle, adapter, "-o", "DIR")
