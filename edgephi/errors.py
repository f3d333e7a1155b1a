"""Every error that edgephi raises on purpose, with the exit code that a shell sees.

    EdgephiError              1   a bug of ours, when raised bare
    ├── UsageError            2   the command line cannot be understood
    ├── CannotServeError      3   asked for something that cannot be had here
    │   ├── DoesNotFitError         too little memory, disk or context
    │   │   └── PastContextError    a prompt that leaves no room for an answer
    │   └── NotSupportedError       a model, engine or option that edgephi does not know (yet)
    │       └── WrongRoutingError   an engine that would have experts answer otherwise than the model
    ├── BadInputError         4   what we were given is broken
    │   ├── BadCheckpointError      config, weights or tokenizer
    │   ├── BadBundleError          a bundle that is not what its manifest says
    │   │   └── BadAdapterError         one of its adapters cannot be read; the rest can
    │   └── BadDeclarationError     a recipe or target file
    ├── QualityGateError      5   the bundle is worse than its recipe allows
    │   └── ProbeFailedError        on the device it does not answer as it must
    └── TransportError        6   network, hub or device out of reach
        └── StoreBusyError          another process changes the store on the device

A message is one line that says what was expected and what was found; the hint says what to do next.
"""

import errno
from typing import ClassVar


class EdgephiError(Exception):
    """Base of the tree: a one-line message, a hint, and the process exit code of its class."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(EdgephiError):
    """The command line cannot be understood."""

    exit_code = 2


class CannotServeError(EdgephiError):
    """What was asked for cannot be had on this machine or with this version."""

    exit_code = 3


class DoesNotFitError(CannotServeError):
    """Too little memory, disk or context for what was asked."""


class PastContextError(DoesNotFitError):
    """A prompt leaves no room for an answer in the context; no memory would help."""


class NotSupportedError(CannotServeError):
    """A model, engine or option that edgephi does not support (yet), or that is not installed."""


class WrongRoutingError(NotSupportedError):
    """An engine would choose or weigh a model's experts otherwise than the model: a build may accept that."""


class BadInputError(EdgephiError):
    """What we were given is broken or contradicts itself."""

    exit_code = 4


class BadCheckpointError(BadInputError):
    """Config, weights or tokenizer of a checkpoint are missing, broken or contradict each other."""


class BadBundleError(BadInputError):
    """A bundle is not what its manifest says."""


class BadAdapterError(BadBundleError):
    """An adapter of a bundle cannot be read by the engine, which can go on without it."""


class BadDeclarationError(BadInputError):
    """A recipe or target file cannot be read as one."""


class QualityGateError(EdgephiError):
    """A measured number of the certificate is past the recipe's limit."""

    exit_code = 5


class ProbeFailedError(QualityGateError):
    """On the device, a bundle answers wrongly, too slowly or not at all."""


class TransportError(EdgephiError):
    """The network, the hub or a device is out of reach."""

    exit_code = 6


class StoreBusyError(TransportError):
    """Another process changes the store on the device."""


def ends_engine(error: EdgephiError) -> bool:
    """Whether an engine has failed in the middle of its work, so that nobody should go on with it."""
    return isinstance(error, BadBundleError) and not isinstance(error, BadAdapterError)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def from_os_error(cause: OSError, *, place: object = "") -> EdgephiError:
    """What the operating system refused to do, in our words; `place` is named when the error names none."""
    where = cause.filename or place
    found = f"{where}: {cause.strerror or cause}" if where else str(cause.strerror or cause)
    if cause.errno in _FULL:
        return DoesNotFitError(found, hint="free some space, or write to another disk")
    if cause.errno == errno.ENOMEM:
        return DoesNotFitError(found, hint="stop other programs, or use a machine with more memory")
    if cause.errno in _REFUSED:
        return BadInputError(found, hint="change its permissions, or give another file or folder")
    return BadInputError(found, hint="check that path, and the disk that it is on")
