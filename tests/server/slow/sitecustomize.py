"""Put on PYTHONPATH by a test: every piece of a prompt and every token takes EDGEPHI_TEST_DELAY seconds more.

The demo model answers within milliseconds, too soon for a test to interfere.
"""

import os
import time
from collections.abc import Iterator, Sequence

from edgephi.runtime.engines.sequence_cache import SequenceCache

DELAY = float(os.environ["EDGEPHI_TEST_DELAY"])
quick = SequenceCache.append


def append(self: SequenceCache, tokens: Sequence[int]) -> Iterator[int]:
    """Append as ever, with a pause after each piece."""
    for done in quick(self, tokens):
        time.sleep(DELAY)
        yield done


SequenceCache.append = append  # type: ignore[method-assign]
