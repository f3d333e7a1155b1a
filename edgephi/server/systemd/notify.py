"""systemd's protocol for services that say how they are: a datagram to the socket in NOTIFY_SOCKET.

See sd_notify(3). Without that variable, nothing is said.
"""

import contextlib
import os
import socket


def tell_service_manager(state: str) -> None:
    """Say "READY=1", "STOPPING=1" or "WATCHDOG=1" to who started this process, if it wants to know."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    if address.startswith("@"):  # a name without a file
        address = "\0" + address[1:]
    # Who does not listen any more has no need to be told.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as pipe:
        pipe.connect(address)
        pipe.sendall(state.encode())


def watchdog_interval() -> float | None:
    """Seconds between two signs of life, half of what the service manager waits; None when it does not."""
    wanted = os.environ.get("WATCHDOG_USEC", "")
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()) or not wanted.isdecimal():
        return None
    return int(wanted) / 2e6 or None
