"""Folders that are not what their good manifest says: links, devices, pipes, what is too much."""

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.store.good_bundle import GOOD_FILES

FolderCase = tuple[str, Callable[[Path], object]]


def hostile_files() -> Iterator[FolderCase]:
    """Something in place of each file that is not the file, or beside it."""
    for path in [*GOOD_FILES, "bundle.json", "bundle.dsse.json"]:
        for name, place in PLACED.items():

            def put(folder: Path, path: str = path, place: Callable[[Path], object] = place) -> None:
                target = folder / path
                target.unlink(missing_ok=True)
                place(target)

            yield f"{name} for {path}", put
    for path in GOOD_FILES:
        for name, damage in DAMAGES.items():
            yield f"{name}: {path}", _damaging(path, damage)
    for name, add in ADDITIONS.items():
        yield f"beside the files: {name}", add


def _damaging(path: str, damage: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: damage(folder / path)


def _link_to(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def _bind_socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may have no more than 107 bytes
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(before)


def _device(kind: int, major: int, minor: int) -> Callable[[Path], object]:
    return lambda path: os.mknod(path, kind | 0o666, os.makedev(major, minor))


PLACED: dict[str, Callable[[Path], object]] = {
    "link to a secret": _link_to("../../outside/secret"),
    "absolute link": _link_to("/etc/passwd"),
    "link to nothing": _link_to("nothing"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to zeros without an end": _link_to("/dev/zero"),
    "link to a folder": _link_to("."),
    "hard link to a secret": lambda path: path.hardlink_to(path.parents[len(path.parents) - 1] / SECRET[0]),
    "pipe": os.mkfifo,
    "socket": _bind_socket,
    "folder": Path.mkdir,
    "zeros without an end": _device(stat.S_IFCHR, 1, 5),
    "a disk": _device(stat.S_IFBLK, 7, 200),
}
SECRET: list[str] = []
"""Where the file is that no bundle may bring into a store; the test says it."""


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "one byte short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "one byte long": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "empty": lambda path: os.truncate(path, 0),
    "a terabyte, sparse": lambda path: os.truncate(path, 1 << 40),
    "a changed bit": _flip,
}
ADDITIONS: dict[str, Callable[[Path], object]] = {
    "a file": lambda folder: (folder / "model/extra.so").touch(),
    "a hidden file": lambda folder: (folder / ".profile").touch(),
    "a folder": lambda folder: (folder / "extra").mkdir(),
    "a link to the root": lambda folder: (folder / "extra").symlink_to("/"),
    "a link in a link": lambda folder: (folder / "model/extra").symlink_to("../model"),
    "a pipe": lambda folder: os.mkfifo(folder / "model/extra"),
    "a name that steers": lambda folder: (folder / "model/\x1b[2J").touch(),
    "a name that is no text": lambda folder: (folder / "\udcff\udcfe").mkdir(),
    "a name that looks like another": lambda folder: (folder / "model/\u202egnp.exe").touch(),
}
