"""How a process ended, in the same words everywhere."""

import signal


def ending(code: int) -> str:
    """What follows "the process": "was killed by signal 9 (SIGKILL)", or "ended with exit code 3"."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:  # the real-time ones have no names
        return f"was killed by signal {-code}"
