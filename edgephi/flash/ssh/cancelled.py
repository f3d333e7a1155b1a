"""Run what speaks to boxes so that Ctrl-C ends it as a cancelled task, which tidies up on its way."""

import asyncio
import signal
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

Answer = TypeVar("Answer")


def run_until_cancelled(work: Coroutine[Any, Any, Answer]) -> Answer:
    """The same as `asyncio.run`, which cancels its task at Ctrl-C only where Python's own handler is set."""
    before = signal.getsignal(signal.SIGINT)
    is_ours = callable(before) and threading.current_thread() is threading.main_thread()
    if is_ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return asyncio.run(work)
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, before)
