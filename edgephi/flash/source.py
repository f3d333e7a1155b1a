"""Where a bundle comes from: one shape for a folder of this machine and for an artifact in a registry."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgephi.store.install import WantedFile

ReadChunks = Callable[[WantedFile], Iterator[tuple[int, memoryview]]]
"""Offset and bytes of the wanted chunks of a file; the bytes hold until the next is asked for."""


@dataclass(frozen=True)
class BundleSource:
    """A bundle to be flashed: the bytes of its manifest and of its signature, and a way to its chunks.

    Nobody has checked anything: whoever receives it does. `name` is for messages. `is_local`: its chunks are
    on a disk of this machine, and quicker to read than another thread is to wake.
    """

    name: str
    manifest: bytes
    signature: bytes | None
    read_chunks: ReadChunks
    is_local: bool = False
