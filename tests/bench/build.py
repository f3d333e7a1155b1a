"""Build a checkpoint for the target `cpu` with edgephi and with onnxruntime-genai's builder.

The builder holds the whole model several times: for 3.8 B parameters it needs 24 GB, so run nothing beside
it. `--no-peer` leaves it out, for models that it cannot do at all.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from tests.bench.measure import Cost, edgephi, folder_bytes, report, run


def main() -> None:
    """Measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("checkpoint", type=Path)
    arguments.add_argument("--runs", type=int, default=3, help="runs of edgephi; the median is printed")
    arguments.add_argument("--no-peer", action="store_true")
    arguments.add_argument("--scratch", type=Path, default=None, help="folder for the artifacts")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        scratch = Path(name)
        ours = {
            f"edgephi {method}": _ours(options.checkpoint, scratch, method, options.runs)
            for method in ("rtn", "search")
        }
        peer = None if options.no_peer else _peer(options.checkpoint, scratch)
    rows = []
    for what, (cost, size) in ours.items():
        faster = f"{peer[0].seconds / cost.seconds:.1f}x" if peer else "-"
        smaller = f"{peer[0].peak_bytes / cost.peak_bytes:.0f}x" if peer else "-"
        rows.append((what, *_numbers(cost, size), faster, smaller))
    if peer:
        rows.append(("genai builder, block 32", *_numbers(*peer), "1x", "1x"))
    report(("", "wall", "peak memory", "artifact", "faster", "less memory"), rows)


def _numbers(cost: Cost, size: int) -> tuple[str, str, str]:
    return f"{cost.seconds:.1f} s", f"{cost.peak_bytes / 1e9:.2f} GB", f"{size / 1e9:.2f} GB"


def _ours(checkpoint: Path, scratch: Path, method: str, runs: int) -> tuple[Cost, int]:
    costs = []
    bundle = scratch / "bundle"
    size = 0
    for _ in range(runs):
        command = edgephi(
            "build", checkpoint, "--target", "cpu", "--verify", "off", "--method", method, "-o", bundle
        )
        costs.append(run(command, log=scratch / "log"))
        size = folder_bytes(bundle / "model")
        shutil.rmtree(bundle)
        print(f"edgephi {method}: {costs[-1].seconds:.1f} s", file=sys.stderr, flush=True)
    seconds = statistics.median(cost.seconds for cost in costs)
    return Cost(seconds, max(cost.peak_bytes for cost in costs)), size


def _peer(checkpoint: Path, scratch: Path) -> tuple[Cost, int]:
    artifact = scratch / "peer"
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    cost = run(
        [*command, "-i", str(checkpoint), "-o", str(artifact), "-p", "int4", "-e", "cpu"], log=scratch / "log"
    )
    return cost, folder_bytes(artifact)


if __name__ == "__main__":
    main()
