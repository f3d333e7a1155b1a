"""What OpenVINO's exceptions become."""

from __future__ import annotations

import contextlib

from edgephi.runtime.engines import errors


def translated(doing: str) -> contextlib.AbstractContextManager[None]:
    """See `edgephi.runtime.engines.errors.translated`."""
    return errors.translated(doing, one_line=one_line)


def one_line(cause: BaseException) -> str:
    """The message without OpenVINO's chain of source files in front of it."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("Exception from", "Check '"))] or lines
    return " ".join(lines) or type(cause).__name__
