"""Where a store is: a folder here, or `ssh://[user@]host[:port]/path` on a box."""

import dataclasses
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from edgephi.commands import shell_command
from edgephi.errors import UsageError

IMAGE_SCHEME = "image:"
_SCHEME = "ssh://"
_EXAMPLE = "ssh://user@host/var/lib/edgephi"
_HOME = "/~/"


@dataclass(frozen=True)
class Box:
    """A store on a machine that ssh reaches. What is None, the user's ssh configuration says.

    `root` is the store's folder there: a whole path, or one that begins with "~/" for the user's home.
    """

    host: str
    root: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port else ""
        return f"{user}{host}{port}"

    @property
    def url(self) -> str:
        """As a destination, which `read_box` reads as this box again."""
        user = f"{urllib.parse.quote(self.user, safe='')}@" if self.user else ""
        place = str(dataclasses.replace(self, user=None))
        root = f"/{self.root}" if self.root.startswith("~") else self.root
        return f"{_SCHEME}{user}{place}{urllib.parse.quote(root, safe='/~')}"


def is_box(text: str) -> bool:
    """Whether a destination is reached by ssh."""
    return text.startswith(_SCHEME)


def read_destination(text: str) -> Box | Path:
    """The place of a store: a box, or a folder here. Raises UsageError when it is neither for certain.

    `host:path` is how scp writes a place on another machine. It is refused, and so is every URL but ssh's:
    either would be the name of a folder here. A blank text would be the working folder.
    """
    if is_box(text):
        return read_box(text)
    if not text.strip():
        raise UsageError(
            f"destination: expected a folder or {_SCHEME}…, found {'a blank' if text else 'an empty'} one",
            hint="is the variable set that it comes from? The working folder is .",
        )
    if text == "-":
        raise UsageError(
            f"{text}: expected a folder or {_SCHEME}…, found what stands for a stream",
            hint="write ./- for a folder of that name here",
        )
    host, colon, path = text.partition(":")
    if not colon or "/" in host:
        return Path(text)
    here = f"`{shell_command(Path(text))}` for a folder of that name here"
    if text.startswith(IMAGE_SCHEME):
        raise UsageError(
            f"{text}: expected a folder or {_SCHEME}…, found an image",
            hint=f"mount it and give the folder, or write {here}",
        )
    if path.startswith("//") or not host or not path:
        raise UsageError(
            f"{text}: expected a folder or {_SCHEME}…, found {host + ':'!r}",
            hint=f"write {_EXAMPLE} for a box, or {here}",
        )
    at_home, absolute = (
        shell_command(f"{_SCHEME}{host}{start}{urllib.parse.quote(path.lstrip('/'))}")
        for start in (_HOME, "/")
    )
    meant = absolute if path.startswith("/") else f"{at_home} (in your home there) or {absolute}"
    raise UsageError(
        f"{text}: expected a folder or {_SCHEME}…, found what scp calls a place on another machine",
        hint=f"write {meant} for the box, or {here}",
    )


def read_box(text: str) -> Box:
    """The box of a destination. Raises UsageError when it is not written as one."""

    def expected(what: str, found: str) -> UsageError:
        return UsageError(f"{text}: expected {what}, found {found}", hint=f"write it as {_EXAMPLE}")

    if not is_box(text):
        raise expected("ssh://", repr(text.partition(":")[0]))
    try:
        parts = urllib.parse.urlsplit(text)
        port = parts.port
    except ValueError as cause:
        raise expected("a destination", str(cause)) from None
    if not parts.hostname:
        raise expected("a host", "none")
    if parts.password is not None:
        raise UsageError(
            f"ssh://{parts.hostname}: expected no password, which others would see, found one",
            hint="use a key: ssh-keygen, then ssh-copy-id",
        )
    path = urllib.parse.unquote(parts.path)
    if not path.strip("/") or path == _HOME:
        raise expected("the folder of the store after the host", repr(path))
    if parts.query or parts.fragment or not path.isprintable():
        raise expected("a plain path", repr(text.partition(parts.netloc)[2]))
    for word in (parts.hostname, parts.username or ""):
        if word.startswith("-") or not word.isprintable() or " " in word:
            raise expected("a user and a host", repr(word))
    root = path[1:] if path.startswith(_HOME) else path
    user = urllib.parse.unquote(parts.username) if parts.username else None
    return Box(_host_as_written(parts.netloc) or parts.hostname, root.rstrip("/"), user, port)


def _host_as_written(netloc: str) -> str | None:
    """The host in its own letters: an alias of the ssh configuration may have capitals. None for IPv6."""
    host = netloc.rpartition("@")[2].partition(":")[0]
    return None if host.startswith("[") else host
