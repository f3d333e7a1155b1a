"""Where a bundle comes from: one shape for a folder of this machine and for an artifact in a registry."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from edgephi.bundle.switched_adapter import BaseBundle
from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError
from edgephi.store.install import WantedFile

ReadChunks = Callable[[WantedFile], Iterator[tuple[int, memoryview]]]
"""Offset and bytes of the wanted chunks of a file; the bytes hold until the next is asked for."""


@dataclass(frozen=True)
class BundleSource:
    """A bundle to be flashed: the bytes of its manifest and of its signature, and a way to its chunks.

    Nobody has checked anything: whoever receives it does. `name` is for messages. `is_local`: its chunks are
    on a disk of this machine, and quicker to read than another thread is to wake. `base` is the bundle whose
    files it has not, because whoever receives it must have them: it is an artifact of adapters.
    """

    name: str
    manifest: bytes
    signature: bytes | None
    read_chunks: ReadChunks
    is_local: bool = False
    base: BaseBundle | None = None


def check_has(source: BundleSource, wanted: Iterable[WantedFile], *, where: str) -> None:
    """Raise BadBundleError when files are wanted that only the base of an adapter has; `where` lacks them."""
    base = source.base
    if base is None:
        return
    of_base = set(base.files)
    missing = [file.path for file in wanted if file.path in of_base]
    if missing:
        raise BadBundleError(
            f"{source.name}: adapters for {base.name} {base.sequence} ({base.sha256[:12]}), expected that "
            f"bundle in {where}, found none of its {missing[0]}",
            hint=f"put that one there first: `{edgephi_command('flash', 'BUNDLE', where)}`",
        )
