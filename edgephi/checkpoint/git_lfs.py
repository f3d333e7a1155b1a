"""Git LFS's pointers: small texts that stand where a clone has not fetched the large files themselves.

Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
"""

from edgephi.commands import shell_command
from edgephi.errors import BadCheckpointError

POINTER_START = b"version https://git-lfs"
_TOLD_APART = 8  # bytes, of which a file of weights has at least as many


def check_no_pointer(start: bytes, where: str, expected: str) -> None:
    """Raise BadCheckpointError when a file begins as a pointer does, or with the part of it that was read."""
    if len(start) >= _TOLD_APART and POINTER_START.startswith(start[: len(POINTER_START)]):
        raise BadCheckpointError(
            f"{where}: expected {expected}, found Git LFS's pointer to it",
            hint=f"`{shell_command('git', 'lfs', 'pull')}` in its folder fetches the file itself",
        )
