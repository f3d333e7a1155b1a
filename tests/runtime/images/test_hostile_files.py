"""Files that chance has broken are read or refused in one line, and take no memory that stays."""

from __future__ import annotations

import json
import subprocess
import sys

from edgephi.runtime.images.decoding import MOST_PIXELS

COUNT = 10_000
SEED = 1


def test_ten_thousand_broken_files_end_no_process_and_keep_no_memory() -> None:
    program = [sys.executable, "-m", "tests.runtime.images.mutated_files", str(COUNT), str(SEED)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["others"] == []
    assert found["read"] + found["refused"] == COUNT
    assert found["refused"] > COUNT // 2
    assert found["end"] - found["held"] < 64 << 20
    assert found["peak"] < 10 * MOST_PIXELS
