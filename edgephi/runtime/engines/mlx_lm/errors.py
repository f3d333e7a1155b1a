"""What MLX's exceptions become."""

from __future__ import annotations

import contextlib

from edgephi.runtime.engines import errors


def translated(doing: str) -> contextlib.AbstractContextManager[None]:
    """See `edgephi.runtime.engines.errors.translated`.

    What a file leads mlx-lm into may be any exception, a KeyError too.
    """
    return errors.translated(doing, kinds=(Exception,))
