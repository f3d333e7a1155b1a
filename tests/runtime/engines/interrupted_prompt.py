"""Press Ctrl-C while OpenVINO computes a prompt, in a process of its own: python -m … BUNDLE.

Prints, as JSON, the seconds until it was heeded, and the greatest difference of the logits after more was
asked of the same cache to those of a fresh one.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

import edgephi.runtime
from edgephi.runtime.adapter import KvCache
from edgephi.runtime.engines.openvino_genai import adapter
from tests.runtime.engines.cache_behaviour import fresh_logits, grow, some_ids
from tests.runtime.engines.openvino_float32 import float32_core

_PROMPT, _ROOM = 3500, 3600  # tokens


def _interrupt_within(cache: KvCache) -> None:
    while not cache.tokens:  # the first piece is computed: the others are under way
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)


def _seconds_until_heeded(cache: KvCache) -> float:
    threading.Thread(target=_interrupt_within, args=(cache,)).start()
    start = time.perf_counter()
    try:
        grow(cache, some_ids(_PROMPT))
    except KeyboardInterrupt:
        return time.perf_counter() - start
    raise SystemExit("the prompt was computed to its end")


def main() -> None:
    """Interrupt one prompt of the bundle that the command line names."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job is started with it ignored
    openvino = adapter._import_engine()
    openvino.Core = float32_core(openvino)
    engine = edgephi.runtime.load(Path(sys.argv[1])).engine
    cache = engine.open_cache(_ROOM)
    seconds = _seconds_until_heeded(cache)
    cache.rewind(min(len(cache.tokens), 20))
    grow(cache, [30])
    differences = np.abs(cache.logits() - fresh_logits(engine, cache.tokens))
    json.dump({"seconds": seconds, "greatest_difference": float(differences.max())}, sys.stdout)


if __name__ == "__main__":
    main()
