"""A box with an ssh server and an agent that misbehaves at one place of the dialogue in one way."""

import asyncio
import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from edgephi.store.agent.frames import HEADER, MAGIC, Kind, frame, frame_of

STEERING = "\x1b[2J\x1b]0;title\x07 \u202e evil"
PLACES = ("start", "ready", "wanted", "chunks", "result")
"""Where an agent can misbehave: instead of its magic word, READY, WANTED, a RECEIVED, its result."""

_LONGEST_SECONDS = 90.0
Process = Any  # asyncssh.SSHServerProcess[bytes]


@dataclass
class HostileBox:
    """`place` and `way` as in PLACES and WAYS, RESULTS or WANTS; "" while it behaves."""

    place: str = ""
    way: str = ""
    port: int = 0
    chunks: int = 0

    async def serve(self, process: Process) -> None:
        """Be the agent of one connection."""
        try:
            await self._serve(process)
            process.exit(0)
        except (asyncssh.Error, OSError, asyncio.IncompleteReadError):
            pass

    async def _serve(self, process: Process) -> None:
        write, read = process.stdout.write, process.stdin.readexactly

        async def here(place: str) -> bool:
            if place != self.place:
                return False
            await WAYS[self.way](process)
            return True

        async def next_frame() -> tuple[Kind, bytes]:
            while True:
                number, length = HEADER.unpack(await read(HEADER.size))
                payload = await read(length)
                if number != Kind.PING:
                    return Kind(number), payload

        if await here("start"):
            return
        await read(int.from_bytes(await read(4), "big"))
        write(MAGIC)
        if await here("ready"):
            return
        write(frame_of(Kind.READY, {"edgephi": "0.1.0", "python": "3.11", "machine": "x86_64"}))
        request = json.loads((await next_frame())[1])
        if request["operation"] not in ("install", "check"):
            if not await here("result"):
                write(frame_of(Kind.RESULT, RESULTS[self.way]({})))
            return
        data = (await next_frame())[1]
        await next_frame()
        manifest = json.loads(data)
        if await here("wanted"):
            return
        wanted = _wanted(manifest)
        if self.place == "wants":
            WANTS[self.way](wanted)
        write(frame_of(Kind.WANTED, wanted))
        if request["operation"] == "check":
            checked = _checked(manifest, data)
            if self.place == "lies":
                RESULTS[self.way](checked)
            write(frame_of(Kind.RESULT, checked))
            return
        if self.place == "early":
            write(frame_of(Kind.RESULT, _outcome(manifest, data)))
            return
        while (kind := (await next_frame())[0]) == Kind.CHUNK:
            self.chunks += 1
            if await here("chunks"):
                return
            write(frame(Kind.RECEIVED))
        assert kind == Kind.FINISH
        if await here("result"):
            return
        outcome = _outcome(manifest, data)
        if self.place == "lies":
            RESULTS[self.way](outcome)
        write(frame_of(Kind.RESULT, outcome))


def _wanted(manifest: dict[str, Any]) -> dict[str, Any]:
    """All of a bundle."""
    files: dict[str, list[list[int]]] = {}
    for entry in manifest["files"]:
        sizes = [int(each.partition(":")[0]) for each in entry.get("chunks") or []] or [entry["size"]]
        offsets = [sum(sizes[:place]) for place in range(len(sizes))]
        if entry["size"]:
            files[entry["sha256"]] = [list(each) for each in zip(offsets, sizes, strict=True)]
    total = sum({entry["sha256"]: entry["size"] for entry in manifest["files"]}.values())
    listed = [{"sha256": sha256, "chunks": chunks} for sha256, chunks in files.items()]
    return {"total_bytes": total, "have_bytes": 0, "files": listed}


def _checked(manifest: dict[str, Any], data: bytes) -> dict[str, Any]:
    """What an honest box says of a bundle that it has nothing of."""
    return {
        "digest": hashlib.sha256(data).hexdigest(),
        "name": manifest["name"],
        "sequence": manifest["sequence"],
        "active": None,
        "changed": True,
        "sent_bytes": _wanted(manifest)["total_bytes"],
        "saved_bytes": 0,
        "signer": None,
    }


def _outcome(manifest: dict[str, Any], data: bytes) -> dict[str, Any]:
    """What an honest box says in the end."""
    total = _wanted(manifest)["total_bytes"]
    probe = {
        "text": manifest["probe"]["expected"],
        "tokens_per_second": 99.0,
        "memory_bytes": 1,
        "seconds": 1.0,
        "emulated": False,
    }
    return {
        "digest": hashlib.sha256(data).hexdigest(),
        "name": manifest["name"],
        "sequence": manifest["sequence"],
        "previous": None,
        "sent_bytes": total,
        "saved_bytes": 0,
        "was_current": False,
        "probe": probe,
        "signer": None,
        "still_open": False,
    }


Way = Callable[[Process], Awaitable[None]]
Change = Callable[[dict[str, Any]], Any]


async def _silent(_process: Process) -> None:
    await asyncio.sleep(_LONGEST_SECONDS)


async def _only_alive(process: Process) -> None:
    for _ in range(4):
        process.stdout.write(frame(Kind.PING))
        await asyncio.sleep(0.5)
    await _silent(process)


async def _ends(process: Process) -> None:
    process.exit(0)


async def _ends_steering(process: Process) -> None:
    process.stderr.write(f"{STEERING}\n".encode())
    process.exit(255)


async def _is_killed(process: Process) -> None:
    process.exit_with_signal("KILL", msg=STEERING)


async def _cut(process: Process) -> None:
    process.channel.get_connection().abort()


def _say(data: bytes) -> Way:
    """Say this, and no more."""

    async def way(process: Process) -> None:
        process.stdout.write(data)
        await _silent(process)

    return way


def _say_again(data: bytes, *, seconds: float = 0.0, to_errors: bool = False) -> Way:
    """Say this without an end."""

    async def way(process: Process) -> None:
        stream = process.stderr if to_errors else process.stdout
        begun = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() - begun < _LONGEST_SECONDS:
            stream.write(data)
            await stream.drain()
            await asyncio.sleep(seconds)

    return way


async def _drip(process: Process) -> None:
    for byte in MAGIC + frame_of(Kind.STEP, {"title": "x" * 200, "size": 1}):
        process.stdout.write(bytes([byte]))
        await asyncio.sleep(1)


def _error(value: Any) -> Way:
    async def way(process: Process) -> None:
        process.stdout.write(
            frame(Kind.ERROR, value if isinstance(value, bytes) else json.dumps(value).encode())
        )
        await asyncio.sleep(0.2)
        process.exit(4)

    return way


_STEP = frame_of(Kind.STEP, {"title": STEERING * 50, "size": 1})
WAYS: dict[str, Way] = {
    "silent": _silent,
    "only-alive": _only_alive,
    "ends": _ends,
    "ends-steering": _ends_steering,
    "is-killed": _is_killed,
    "cut": _cut,
    "drip": _drip,
    "half-a-head": _say(b"\x11\0"),
    "half-a-frame": _say(HEADER.pack(Kind.STEP, 100) + b"{"),
    "huge-frame": _say(HEADER.pack(Kind.READY, 1 << 31)),
    "large-frame": _say(HEADER.pack(Kind.RESULT, 16 << 20) + b"["),
    "no-frame": _say(b"\xff" * 64),
    "no-json": _say(frame(Kind.STEP, b"[1,2")),
    "a-list": _say(frame(Kind.STEP, b"[]")),
    "deep": _say(frame(Kind.STEP, b"[" * 100_000)),
    "empty": _say(frame(Kind.RESULT)),
    "another-kind": _say(frame(Kind.FINISH)),
    "ready-again": _say(frame_of(Kind.READY, {"edgephi": STEERING, "python": "", "machine": ""})),
    "wanted-again": _say(frame_of(Kind.WANTED, {"total_bytes": 0, "have_bytes": 0, "files": []}) * 2),
    "step-without-title": _say(frame_of(Kind.STEP, {"size": "x"})),
    "step-of-any-size": _say(frame(Kind.STEP, b'{"title":"t","size":' + b"9" * 400 + b"}")),
    "step-steering": _say(_STEP),
    "done-negative": _say(frame(Kind.DONE, b'{"units":-99999999999999999999}')),
    "done-nan": _say(frame(Kind.DONE, b'{"units":NaN}')),
    "received-early": _say(frame(Kind.RECEIVED) * 1000),
    "endless-zeros": _say_again(bytes(1 << 16)),
    "endless-lines": _say_again(b"x" * 50 + b"\n"),
    "endless-errors": _say_again(b"e" * 4096, to_errors=True),
    "endless-steps": _say_again(_STEP),
    "endless-done": _say_again(frame_of(Kind.DONE, {"units": 1}) * 100),
    "endless-alive": _say_again(frame(Kind.PING) * 100),
    "error-steering": _error({"classes": ["BadBundleError"], "message": STEERING, "hint": STEERING}),
    "error-of-no-class": _error({"classes": ["annotations", "errno"], "message": "m", "hint": "h"}),
    "error-of-no-text": _error({"classes": ["UsageError"], "message": 1, "hint": None}),
    "error-a-list": _error([]),
    "error-no-json": _error(b"{"),
    "error-long": _error({"classes": ["TransportError"], "message": "m" * 900_000, "hint": "h"}),
}
"""How it misbehaves, by name."""


def _set(name: str, value: Any) -> Change:
    def change(result: dict[str, Any]) -> dict[str, Any]:
        result[name] = value
        return result

    return change


def _emptied(result: dict[str, Any]) -> dict[str, Any]:
    result.clear()
    return result


def _set_probe(name: str, value: Any) -> Change:
    return lambda result: result["probe"].update({name: value})


RESULTS: dict[str, Change] = {
    "nothing": _emptied,
    "another-digest": _set("digest", "0" * 64),
    "no-digest": _set("digest", 5),
    "steering-digest": _set("digest", STEERING),
    "another-name": _set("name", STEERING),
    "another-release": _set("sequence", 99),
    "no-previous": _set("previous", STEERING),
    "negative-bytes": _set("sent_bytes", -(10**30)),
    "too-many-bytes": _set("saved_bytes", 1 << 40),
    "a-signer": _set("signer", "official"),
    "no-active": _set("active", STEERING),
    "unchanged": _set("changed", False),
    "unproven": _set("probe", None),
    "another-answer": _set_probe("text", STEERING),
    "infinite-speed": _set_probe("tokens_per_second", float("inf")),
    "no-speed": _set_probe("tokens_per_second", float("nan")),
    "negative-memory": _set_probe("memory_bytes", -1),
    "another-key": _set("official", True),
}
"""Lies in a result."""


def _of_first(change: Callable[[dict[str, Any]], Any]) -> Change:
    return lambda wanted: change(wanted["files"][0])


WANTS: dict[str, Change] = {
    "wants-a-path": _of_first(lambda file: file.update(sha256="../../etc/passwd")),
    "wants-between": _of_first(lambda file: file.update(chunks=[[1, 5]])),
    "wants-before": _of_first(lambda file: file.update(chunks=[[-1, 5]])),
    "wants-twice": _of_first(lambda file: file.update(chunks=file["chunks"] * 2)),
    "wants-no-chunk": _of_first(lambda file: file.update(chunks=[])),
    "wants-odd-chunks": _of_first(lambda file: file.update(chunks=[[0], [1, 2, 3], "x"])),
    "wants-a-number": lambda wanted: wanted.update(files=[5]),
    "wants-all-again": lambda wanted: wanted.update(files=wanted["files"] * 3000),
    "wants-no-total": lambda wanted: wanted.update(total_bytes="x"),
    "wants-less-than-nothing": lambda wanted: wanted.update(total_bytes=-5),
    "wants-nothing-said": lambda wanted: wanted.clear(),
}
"""Lies in what is wanted."""

BANNERS: dict[str, bytes | None] = {
    "no-banner": b"",
    "drip-banner": None,
    "odd-banner": b"HTTP/1.1 200 OK\r\n\r\n",
    "steering-banner": b"\x1b[2J\x1b]0;t\x07\r\n" * 50,
    "old-banner": b"SSH-1.0-old\r\n",
}
"""What it says in place of ssh: then nothing more."""


class _Server(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:  # noqa: ARG002 - asyncssh's signature
        return False  # everybody may come in


@contextlib.contextmanager
def hostile_box(home: Path, *, key: asyncssh.SSHKey | None = None, known: str = "") -> Iterator[HostileBox]:
    """A box on this machine while the block runs; the user with that home knows its key.

    `known` is the marker before its key in known_hosts.
    """
    box = HostileBox()
    key = key or asyncssh.generate_private_key("ssh-ed25519")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def serve() -> asyncssh.SSHAcceptor:
        return await asyncssh.create_server(
            _Server, "127.0.0.1", 0, server_host_keys=[key], process_factory=box.serve, encoding=None
        )

    server = asyncio.run_coroutine_threadsafe(serve(), loop).result()
    box.port = server.get_port()
    (home / ".ssh").mkdir(parents=True, exist_ok=True, mode=0o700)
    public = key.export_public_key().decode().strip()
    (home / ".ssh" / "known_hosts").write_text(f"{known}[127.0.0.1]:{box.port} {public}\n")
    try:
        yield box
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)


async def _end(server: asyncssh.SSHAcceptor) -> None:
    server.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def silent_port(banner: str) -> Iterator[int]:
    """A port where nobody speaks ssh, while the block runs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=_banner, args=(client, BANNERS[banner]), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


def _banner(client: socket.socket, banner: bytes | None) -> None:
    with client, contextlib.suppress(OSError):
        client.settimeout(_LONGEST_SECONDS)
        if banner is None:
            for byte in b"SSH-2.0-slow-" * 20:
                client.sendall(bytes([byte]))
                threading.Event().wait(1)
        client.sendall(banner or b"")
        while client.recv(4096):
            pass
