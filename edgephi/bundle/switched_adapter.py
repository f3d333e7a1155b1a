"""LoRA adapters beside a bundle's weights, which are switched on for what is asked with their name.

A folder with a manifest that names a `base` and without the base's files is an adapter's artifact: some tens
of megabytes, which go beside that bundle on a device, and beside its folder anywhere else.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from edgephi.bundle.certificate import Certificate
from edgephi.bundle.chunks import FileEntry
from edgephi.bundle.document import HINT
from edgephi.bundle.paths import path_problem
from edgephi.bundle.probe import Probe, check_probe
from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError, BadInputError
from edgephi.guards.visible import visible

ADAPTERS_FOLDER = "adapters"
"""Within the artifact's folder."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class SwitchedAdapter:
    """An adapter beside the weights: what is asked with its name is computed with it, and all else without.

    The engine opens `file`, one of the bundle's files. `scale` is by how much it was strengthened. The
    certificate is about the model with it, against the checkpoint with it; the probe is asked with it.
    """

    name: str
    id: str
    revision: str
    file: str
    scale: float = 1.0
    certificate: Certificate = field(default_factory=lambda: Certificate("off"))
    probe: Probe | None = None

    @property
    def described(self) -> str:
        """As people are told of it, in one line."""
        strength = "" if self.scale == 1 else f", {self.scale:g} times as strong"
        return visible(f"{self.name}: {self.id} at {self.revision}{strength}")


@dataclass(frozen=True)
class BaseBundle:
    """The bundle that adapters were made for: its release, the sha256 of its `bundle.json`, its files."""

    name: str
    sequence: int
    sha256: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class AdapterFiles:
    """The adapters of an opened bundle, and the folder that their files lie in.

    That is the bundle's own, or the folder of an artifact which goes beside it.
    """

    folder: Path
    adapters: tuple[SwitchedAdapter, ...] = ()

    def file(self, name: str) -> Path:
        """What the engine opens for an adapter. Raises BadInputError when there is none of that name."""
        return self.folder / adapter_named(self.adapters, name).file


def merge_hint(target: str = "T") -> str:
    """What helps with an adapter that cannot be switched on and off: to make it part of the weights."""
    return f"merge it: `{edgephi_command('build', 'MODEL', '--target', target, '--adapter', 'ADAPTER')}`"


def is_adapter_name(name: str) -> bool:
    """Whether an adapter may have this name: a file or folder has it, and part of a model's in the API."""
    return _NAME.fullmatch(name) is not None and path_problem(name) is None


def model_name(bundle: str, adapter: str) -> str:
    """What a bundle's model is called with an adapter or, where that is "", without one."""
    return f"{bundle}:{adapter}" if adapter else bundle


def adapter_named(adapters: Iterable[SwitchedAdapter], name: str) -> SwitchedAdapter:
    """The adapter of that name. Raises BadInputError."""
    adapters = tuple(adapters)
    for adapter in adapters:
        if adapter.name == name:
            return adapter
    names = ", ".join(adapter.name for adapter in adapters) or "none"
    raise BadInputError(
        f"expected the name of an adapter of this bundle, which has {names}; found {name[:100]!r}",
        hint=f"`{edgephi_command('adapter', 'build', '--help')}` says how one is made for it",
    )


def check_adapters(
    adapters: tuple[SwitchedAdapter, ...],
    base: BaseBundle | None,
    files: tuple[FileEntry, ...],
    *,
    where: str,
) -> None:
    """Raise BadBundleError when adapters cannot be told apart, or lead to what is not the bundle's."""
    paths, of_base = {entry.path for entry in files}, set(base.files if base else ())
    own = paths - of_base
    if bool(adapters) != (base is not None):
        raise BadBundleError(f"{where}: expected adapters and their base, found one of the two", hint=HINT)
    names = set()
    for adapter in adapters:
        if not is_adapter_name(adapter.name) or adapter.name.casefold() in names:
            raise BadBundleError(
                f"{where}: adapters: expected names of their own, found {adapter.name[:100]!a}", hint=HINT
            )
        names.add(adapter.name.casefold())
        if adapter.file not in own:
            raise BadBundleError(
                f"{where}: adapters: {adapter.name}: expected one of the bundle's own files, "
                f"found {adapter.file[:100]!a}",
                hint=HINT,
            )
        check_probe(adapter.probe, where=f"{where}: adapters: {adapter.name}")
    if base is not None and (_SHA256.fullmatch(base.sha256) is None or not of_base or not of_base < paths):
        raise BadBundleError(
            f"{where}: base: expected a sha256 and some of the bundle's files, found others", hint=HINT
        )
