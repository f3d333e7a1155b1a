"""What clients are told of the tokens that were computed before: less than is known.

What one client's request finds computed is what another one's has left. An exact number would tell a client
how far its text agrees with somebody else's, and let it find that text token by token; in steps of 32 it has
to guess so many at once. How long the first token takes tells it all the same, if less clearly: only servers
of their own keep clients apart (docs/serve.md).
"""

from __future__ import annotations

from edgephi.server.engine.messages import Progress

STEP = 32  # tokens


def told_tokens(reused: int) -> int:
    """Of so many tokens that were found computed, how many are told."""
    return reused - reused % STEP


def told_progress(progress: Progress) -> tuple[int, int]:
    """How much of a prompt is computed, and how much there is. Its beginning may have been found."""
    done = progress.done
    return done if done == progress.total else told_tokens(done), progress.total


def told_speed(tokens_per_second: float) -> float:
    """A speed to two digits. All of them, and the time, would tell how many tokens were computed."""
    return float(f"{tokens_per_second:.2g}")
