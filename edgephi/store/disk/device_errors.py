"""What the system refused, in our words."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from edgephi.errors import TransportError, from_os_error

_BROKEN = (errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE)


@contextlib.contextmanager
def device_errors(root: Path) -> Iterator[None]:
    """Translate what goes wrong with a store's disk: a broken one is not the bundle's fault."""
    try:
        yield
    except OSError as cause:
        if cause.errno in _BROKEN:
            raise TransportError(
                f"{cause.filename or root}: {cause.strerror}",
                hint="check the device's disk; what was active still is",
            ) from cause
        raise from_os_error(cause, place=root) from cause
