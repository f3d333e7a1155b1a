"""Where exceptions of engines become ours: engines hardly have classes of their own for what goes wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from edgephi.commands import edgephi_command, install_command
from edgephi.errors import BadAdapterError, BadBundleError, DoesNotFitError, EdgephiError, NotSupportedError

_KINDS = (RuntimeError, ValueError, TypeError, MemoryError, UnicodeError, OSError)


def one_line(cause: BaseException) -> str:
    """What an exception says, in one line."""
    return " ".join(str(cause).split()) or type(cause).__name__


@contextlib.contextmanager
def translated(
    doing: str,
    *,
    kinds: tuple[type[Exception], ...] = _KINDS,
    one_line: Callable[[BaseException], str] = one_line,
) -> Iterator[None]:
    """Raise what an engine raises as DoesNotFitError where it is about memory, else as BadBundleError.

    `doing` says what was expected. Versions, memory and lengths were checked before, so what fails otherwise
    is the bundle's content. Only exceptions of `kinds` are the engine's; ours pass as they are.
    """
    try:
        yield
    except EdgephiError:
        raise
    except kinds as cause:
        found = one_line(cause)
        if isinstance(cause, MemoryError) or "alloc" in found.lower():
            raise DoesNotFitError(
                f"{doing}: not enough memory: {found}",
                hint="stop other programs, or ask for fewer tokens (--max-tokens)",
            ) from cause
        hint = f"copy the bundle again and check it with `{edgephi_command('verify')}`"
        raise BadBundleError(f"{doing}, found: {found}", hint=hint) from cause


@contextlib.contextmanager
def opening_adapter(
    file: Path, translate: Callable[[str], contextlib.AbstractContextManager[None]]
) -> Iterator[None]:
    """Raise what opening an adapter fails with as BadAdapterError, but for too little memory.

    `translate` makes errors of ours of the engine's exceptions, as `translated` does.
    """
    try:
        with translate(f"{file}: expected an adapter for this model"):
            yield
    except BadBundleError as error:
        raise BadAdapterError(error.message, hint=error.hint) from error.__cause__


def cannot_import(engine: str, cause: ImportError, *, extra: str) -> NotSupportedError:
    """The error for an engine that is missing, or is there and cannot be loaded."""
    if isinstance(cause, ModuleNotFoundError):
        problem = f"this bundle runs on {engine}, which is not installed"
    else:  # installed, but not for this machine: a missing system library, another architecture
        problem = f"this bundle runs on {engine}, which cannot be loaded: {one_line(cause)}"
    return NotSupportedError(problem, hint=install_command(extra))
