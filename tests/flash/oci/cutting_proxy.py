"""A TCP proxy on 127.0.0.1 that cuts connections after so many bytes, as a bad link does."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_BUFFER_BYTES = 1 << 16


@dataclass
class CuttingProxy:
    """`cuts_down` and `cuts_up`: after how many bytes from and to the server the connections are cut.

    Each number is used once, in order, and counts from the cut before. `down` and `up` count all bytes.
    `on_cut` is called right before each cut. After `hold_after` bytes from the server no more
    pass, and `held` is set.
    """

    port: int = 0
    cuts_down: list[int] = field(default_factory=list)
    cuts_up: list[int] = field(default_factory=list)
    down: int = 0
    up: int = 0
    cuts: int = 0
    on_cut: Callable[[], None] = lambda: None
    hold_after: int | None = None
    held: threading.Event = field(default_factory=threading.Event)
    _released: threading.Event = field(default_factory=threading.Event)
    _since_cut: dict[str, int] = field(default_factory=lambda: {"down": 0, "up": 0})
    _open: set[socket.socket] = field(default_factory=set)
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    @property
    def host(self) -> str:
        """Host and port to connect to."""
        return f"127.0.0.1:{self.port}"

    def _passes(self, way: str, size: int) -> bool:
        """Count bytes on their way; False when the connections are to be cut now."""
        with self._mutex:
            setattr(self, way, getattr(self, way) + size)
            cuts = self.cuts_down if way == "down" else self.cuts_up
            self._since_cut[way] += size
            if not cuts or self._since_cut[way] < cuts[0]:
                return True
            cuts.pop(0)
            self._since_cut[way] = 0
            self.cuts += 1
        self.on_cut()
        self._cut_all()
        return False

    def _cut_all(self) -> None:
        with self._mutex:
            for each in self._open:
                with contextlib.suppress(OSError):  # a reset, without what is still in the buffers
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _carry(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_BUFFER_BYTES):
                if not self._passes(way, len(data)):
                    break
                if way == "down" and self.hold_after is not None and self.down > self.hold_after:
                    self.held.set()
                    self._released.wait()
                    return
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _join(self, client: socket.socket, server_port: int) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", server_port))
        except OSError:
            client.close()
            return
        with client, server:
            with self._mutex:
                self._open |= {client, server}
            back = threading.Thread(target=self._carry, args=(server, client, "down"), daemon=True)
            back.start()
            self._carry(client, server, "up")
            back.join()
            with self._mutex:
                self._open -= {client, server}


@contextlib.contextmanager
def cutting_proxy(server_port: int) -> Iterator[CuttingProxy]:
    """Stand before the server at `server_port` while the block runs."""
    proxy = CuttingProxy()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy.port = listener.getsockname()[1]

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=proxy._join, args=(client, server_port), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield proxy
        finally:
            proxy._released.set()
