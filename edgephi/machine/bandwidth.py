"""How many bytes a second all processors together can read from memory: the bound on decode speed.

Each token reads all weights once, so no engine decodes faster than this over the bytes read per token.

A device has no NumPy and no compiler, but the C library's `memcmp` reads two streams with the processor's
widest loads, and `ctypes` lets go of Python's lock while it does.
"""

import ctypes
import mmap
import threading
import time
from pathlib import Path

_WINDOWS = 40
_WINDOW_SECONDS = 0.02
_BYTES = 256 << 20
# What is read again must not come from the processor's cache: of four times its size a quarter can, at most.
_CACHE_MULTIPLE = 4
_CHUNK_BYTES = 4 << 20  # of one call: how finely a window ends
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_CACHE_UNITS = {"K": 10, "M": 20, "G": 30}


def read_bandwidth(available_bytes: int, *, threads: int) -> float:
    """Bytes per second that `threads` threads together read from memory, in the best of a few short windows.

    The best, because whatever else runs here can only take away from it. Takes about a second and 256 MB:
    more when the processor's cache is large, but never more than an eighth of `available_bytes`. Raises
    MemoryError when they cannot be had.
    """
    wanted = max(_BYTES, _CACHE_MULTIPLE * last_level_cache_bytes())
    chunks = max(2, min(wanted, available_bytes // 8) // threads // _CHUNK_BYTES)
    barrier = threading.Barrier(threads)
    rates: list[list[float]] = []
    workers = [threading.Thread(target=_read, args=(chunks, barrier, rates)) for _ in range(threads)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    except BaseException:  # Ctrl-C: those that run would wait for ever for one that never began
        barrier.abort()
        raise
    if len(rates) < threads:
        raise MemoryError
    together: list[float] = [sum(window) for window in zip(*rates, strict=True)]
    return max(together)


def last_level_cache_bytes() -> int:
    """Size of the largest cache of the first processor; 0 where the system does not say."""
    sizes = [0]
    for file in _CACHES.glob("index*/size"):
        text = file.read_text().strip()  # such as "32768K"
        if text[:-1].isdecimal() and text[-1] in _CACHE_UNITS:
            sizes.append(int(text[:-1]) << _CACHE_UNITS[text[-1]])
    return max(sizes)


def _read(chunks: int, barrier: threading.Barrier, rates: list[list[float]]) -> None:
    """In a thread: have it read as long as the others do, and end when one of them cannot."""
    try:
        rates.append(_windows(chunks, barrier))
    except (OSError, MemoryError, threading.BrokenBarrierError):
        barrier.abort()


def _windows(chunks: int, barrier: threading.Barrier) -> list[float]:
    """Read a buffer of one's own again and again; the bytes per second of each window."""
    compare = ctypes.CDLL(None).memcmp
    compare.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    with mmap.mmap(-1, chunks * _CHUNK_BYTES) as memory:
        if hasattr(mmap, "MADV_HUGEPAGE"):  # else looking up addresses costs up to a third
            memory.madvise(mmap.MADV_HUGEPAGE)
        buffer = ctypes.c_char.from_buffer(memory)
        start = ctypes.addressof(buffer)
        # Written here, so that the pages lie near this thread's processor; never written, they would all be
        # one page of zeros. Equal halves, so that `memcmp` reads to the end.
        ctypes.memset(start, 1, len(memory))
        own = []
        try:
            for _ in range(_WINDOWS):
                barrier.wait()
                begin = now = time.perf_counter()
                done = 0
                while now - begin < _WINDOW_SECONDS:
                    chunk = start + done % chunks * _CHUNK_BYTES
                    compare(chunk, chunk + _CHUNK_BYTES // 2, _CHUNK_BYTES // 2)
                    done += 1
                    now = time.perf_counter()
                own.append(done * _CHUNK_BYTES / (now - begin))
        finally:
            del buffer  # the map cannot be closed while something points into it
    return own
