"""Standard output of a process that answers its parent: for the answer alone.

A vendor's library prints what it likes, when it is loaded and as the process ends: behind the answer too,
when standard output is a pipe. (QNN's prints `# LIBNATIVE: …` there.)
"""

import os
from typing import TextIO


def take_standard_output() -> TextIO:
    """A stream to what was standard output; what anybody else prints from now on is dropped.

    Call it before a library is loaded. Lines are flushed as they are written.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return answers
