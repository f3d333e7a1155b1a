"""Gives memory back that a process has used, to start or for a request, and does not need any more."""

import ctypes
import gc


def give_back_memory() -> None:
    """Call it when all is loaded. What is there then stays, and the garbage collector need not look at it."""
    gc.collect()
    gc.freeze()
    give_back_freed()


def give_back_freed() -> None:
    """Give back what was freed and is not needed soon, such as images, which are megabytes each."""
    # glibc keeps what was freed in the middle of its heap, unless it is asked: 2.6 MB of the server's 28.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
