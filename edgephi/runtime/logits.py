"""`python -m edgephi.runtime.logits BUNDLE OUTPUT`: the engine's logits, in a process of its own.

Token ids come on standard input as a JSON list; OUTPUT gets float32 [tokens, vocabulary]; standard output the
engine's name and version. An error leaves its message and its hint on two lines of standard error and ends
with the error's exit code. The builder proves a bundle with this; the engine's memory is gone afterwards.
"""

import json
import os
import sys
from pathlib import Path

from edgephi.errors import DoesNotFitError, EdgephiError, from_os_error
from edgephi.manifest import read_manifest
from edgephi.runtime.engines import open_engine

_STEP = 32  # tokens in one call: bounds the engine's copy of the logits, and is what a progress bar sees


def main(bundle: Path, output: Path, token_ids: list[int]) -> str:
    """Write the logits of `token_ids` to `output`; returns the engine's name and version."""
    builder = os.getppid()
    manifest = read_manifest(bundle)
    engine = open_engine(bundle, manifest)
    with output.open("wb") as file:
        for block in engine.logits(token_ids, step=_STEP):
            file.write(block.astype("<f4", copy=False).data)
            file.flush()
            if os.getppid() != builder:  # it was killed: nobody waits for this
                break
    return f"{engine.name} {engine.version}"


def _main() -> int:
    try:
        print(main(Path(sys.argv[1]), Path(sys.argv[2]), json.load(sys.stdin)))  # noqa: T201
    except EdgephiError as caught:
        error = caught
    except OSError as cause:
        error = from_os_error(cause, place=sys.argv[2])
    except MemoryError:
        error = DoesNotFitError("the engine ran out of memory", hint="stop other programs")
    else:
        return 0
    print(error.message, error.hint, sep="\n", file=sys.stderr)  # noqa: T201
    return error.exit_code


if __name__ == "__main__":
    sys.exit(_main())
