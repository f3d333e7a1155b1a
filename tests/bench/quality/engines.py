"""The same bundles through their engines: is what the harness measures what a user gets?

For each engine a bundle is built. `harness` is the KL of its weights in the harness; `engine` that of the
logits which the engine computes, as the builder's proof asks it for them; `export error` how far the two are
apart, the harness's || the engine's. The engine's KL is to be that of the harness within 3 % and its export
error; the program ends with 1 where it is not.

`python -m tests.bench.quality.engines CHECKPOINT`
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgephi.build.verify import run_engine
from edgephi.runtime.proof.logits import AskedPassage
from tests.bench.measure import report
from tests.bench.quality.__main__ import read_text
from tests.bench.quality.harness import Floats, Harness, Logits, mean, standard_error
from tests.bench.quality.ours import INT8_VOCABULARY, Build, make_bundle, read_bundle
from tests.bench.quality.text import Text

_QUANT = {"group_size": 32, **INT8_VOCABULARY}
BUNDLES = tuple(
    Build("default method, int8 vocabulary", target, _QUANT) for target in ("cpu", "openvino", "gguf", "mlx")
)
_TOLERANCE = 0.03


def main() -> None:
    """Build, measure, print."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("checkpoint", type=Path, help="a folder with a trained model of the Phi-3 family")
    arguments.add_argument("--only", help="targets, with commas")
    arguments.add_argument(
        "--text", type=Path, nargs="+", help="files of English instead of Debian's packages"
    )
    options = arguments.parse_args()
    wanted = options.only.split(",") if options.only else [build.target for build in BUNDLES]
    text = read_text(options.checkpoint, options.text)
    harness = Harness(options.checkpoint, text.evaluation)
    rows, wrong = [], False
    with tempfile.TemporaryDirectory() as scratch:
        for build in BUNDLES:
            if build.target in wanted:
                cells, is_right = _row(build, options.checkpoint, harness, text, Path(scratch))
                print(*cells, sep="\t", file=sys.stderr, flush=True)
                rows.append(cells)
                wrong |= not is_right
    report(("", "harness", "engine", "±", "export error", "difference", "top-1", "within 3 %"), rows)
    sys.exit(wrong)


def _row(
    build: Build, checkpoint: Path, harness: Harness, text: Text, scratch: Path
) -> tuple[tuple[str, ...], bool]:
    bundle = scratch / build.target
    make_bundle(build, checkpoint, bundle)
    weights, _ = read_bundle(build, checkpoint, bundle)
    engine = _engine(bundle, text.evaluation)
    expected = mean(harness.measure(weights).kl)
    found = harness.measure(engine)
    error = mean(harness.measure(engine, beside=weights).kl)
    kl = mean(found.kl)
    is_right = abs(kl - expected) <= _TOLERANCE * expected + error
    cells = (
        f"{build.target}: {build.who}",
        f"{expected:.4f}",
        f"{kl:.4f}",
        f"{standard_error(found.kl):.4f}",
        f"{error:.2e}",
        f"{kl / expected - 1:+.1%}",
        f"{mean(found.top1):.1%}",
        "yes" if is_right else "no",
    )
    return cells, is_right


def _engine(bundle: Path, pieces: Sequence[tuple[int, ...]]) -> Logits:
    """What a bundle's engine has computed for each of the pieces, in contexts of their own."""
    output = bundle.with_suffix(".logits")
    run_engine(bundle, [AskedPassage(ids) for ids in pieces], None, output, lambda _: None)
    computed = np.memmap(output, np.float32, "r").reshape(len(pieces), len(pieces[0]), -1)
    of_piece = dict(zip(pieces, computed, strict=True))

    def logits(ids: Sequence[int]) -> Floats:
        return of_piece[tuple(ids)]

    return logits


if __name__ == "__main__":
    main()
