"""The engine's process' end of the pipes to the server."""

import contextlib
import json
import os
import queue
import threading
from base64 import b64decode
from collections.abc import Iterator
from typing import Protocol

from edgephi.errors import BadInputError
from edgephi.records import read_record
from edgephi.server.engine.messages import Ask, Cancel, FromEngine, Open, kind_of

_READ_BYTES = 1 << 16

_encode = json.JSONEncoder(default=vars, ensure_ascii=False, separators=(",", ":")).encode


class Closable(Protocol):
    """What another thread can stop."""

    def close(self) -> None:
        """Stop soon."""


class Channel:
    """Messages from and to the parent, over two file descriptors. Without a parent the process ends."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._messages: queue.SimpleQueue[Open | Ask] = queue.SimpleQueue()
        # The two threads write these in opposite orders, so that one of them sees both.
        self._cancelled: set[int] = set()
        self._in_hand: tuple[int, Closable] | None = None
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, message: FromEngine) -> None:
        """Write one message."""
        line = _encode({kind_of(message): message}).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._outgoing, line) :]
        except BrokenPipeError:
            os._exit(0)

    def receive(self) -> Open | Ask:
        """The next message that is no Cancel; waits for it."""
        return self._messages.get()

    @contextlib.contextmanager
    def cancelling(self, request: int, running: Closable) -> Iterator[None]:
        """Close what runs for a request when a Cancel comes, or has come."""
        self._in_hand = request, running
        if request in self._cancelled:
            running.close()
        try:
            yield
        finally:
            self._in_hand = None

    def is_cancelled(self, request: int) -> bool:
        """Whether nobody waits for a request any more."""
        return request in self._cancelled

    def forget(self, request: int) -> None:
        """A request has ended: nobody asks again whether it was cancelled."""
        self._cancelled.discard(request)

    def _read(self) -> None:
        """What the reading thread does, for ever."""
        unread = bytearray()  # a line with images has megabytes: none of it is copied again and again
        while data := os.read(self._incoming, _READ_BYTES):
            *lines, rest = data.split(b"\n")
            for line in lines:
                self._take(_decode(unread + line))
                unread.clear()
            unread += rest
        os._exit(0)

    def _take(self, message: Open | Ask | Cancel) -> None:
        """Hand a message on, and keep nothing of it."""
        if not isinstance(message, Cancel):
            self._messages.put(message)
            return
        self._cancelled.add(message.id)
        in_hand = self._in_hand
        if in_hand is not None and in_hand[0] == message.id:
            in_hand[1].close()


def _decode(line: bytes | bytearray) -> Open | Ask | Cancel:
    """A message of the parent."""
    ((kind, fields),) = json.loads(line).items()
    if kind == "ask":
        fields["images"] = [b64decode(image) for image in fields.pop("images", ())]
    record: type[Open | Ask | Cancel] = {"open": Open, "ask": Ask, "cancel": Cancel}[kind]
    return read_record(record, fields, where=kind, error=BadInputError, hint="please report this")
