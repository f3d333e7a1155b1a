"""How many files and connections this process may have open at once."""

import contextlib
import resource

_WANTED = 4096


def allow_open_files(wanted: int = _WANTED) -> int:
    """Raise the limit to `wanted`, or as far as this user may; how many it is now.

    The usual 1,024 of Linux, and the 256 of macOS, stand for programs that use `select`, which we do not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(ValueError, OSError):  # then it stays as it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else soft
