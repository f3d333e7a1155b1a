"""`python -m edgephi.runtime.logits BUNDLE OUTPUT`: the engine's logits, in a process of its own.

Token ids come on standard input as a JSON list; OUTPUT gets float32 [tokens, vocabulary]; standard output one
JSON object: `engine` (name and version) and `provider`. An error leaves its message and its hint on two lines
of standard error and ends with the error's exit code. The builder proves a bundle with this; the engine's
memory is gone afterwards.
"""

import json
import os
import sys
from pathlib import Path

from edgephi.errors import DoesNotFitError, EdgephiError, from_os_error
from edgephi.manifest import Manifest, read_manifest
from edgephi.runtime.engines import ADAPTERS, adapter_of, open_engine

_STEP = 32  # tokens in one call: bounds the engine's copy of the logits, and is what a progress bar sees


def main(bundle: Path, output: Path, token_ids: list[int]) -> dict[str, str]:
    """Write the logits of `token_ids` to `output`; returns the engine with its version, and the provider.

    Where the bundle's provider is missing, its stand-in computes the same artifact.
    """
    builder = os.getppid()
    manifest = read_manifest(bundle)
    context = min(len(token_ids) + 1, manifest.limits.context)
    engine = open_engine(bundle, manifest, context=context, provider=_provider(manifest))
    with output.open("wb") as file:
        for block in engine.logits(token_ids, step=_STEP):
            file.write(block.astype("<f4", copy=False).data)
            file.flush()
            if os.getppid() != builder:  # it was killed: nobody waits for this
                break
    return {"engine": f"{engine.name} {engine.version}", "provider": engine.provider}


def _provider(manifest: Manifest) -> str:
    """The bundle's provider or, where that cannot be used here, its stand-in."""
    wanted = manifest.target.provider
    if manifest.target.engine not in ADAPTERS:
        return wanted  # it is refused with a reason later
    adapter = adapter_of(manifest.target.engine)
    if adapter.installed_version() is None or adapter.provider_problem(wanted) is None:
        return wanted
    return adapter.STAND_INS.get(wanted, wanted)


def _main() -> int:
    try:
        print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), json.load(sys.stdin))))  # noqa: T201
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
