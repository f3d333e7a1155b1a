"""`edgephi verify --against` of a default build: wall time, and memory without the engine's process."""

import argparse
import tempfile
from pathlib import Path

from tests.bench.measure import edgephi, report, run


def main() -> None:
    """Measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("checkpoint", type=Path)
    arguments.add_argument("--level", default="quick", choices=["quick", "full"])
    arguments.add_argument("--scratch", type=Path, default=None, help="folder for the artifact")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        bundle, log = Path(name) / "bundle", Path(name) / "log"
        run(edgephi("build", options.checkpoint, "-t", "cpu", "--verify", "off", "-o", bundle), log=log)
        cost = run(
            edgephi("verify", bundle, "--against", options.checkpoint, "--level", options.level), log=log
        )
        print(log.read_text())
    report(
        ("", "wall", "own peak memory"),
        [(f"verify {options.level}", f"{cost.seconds:.0f} s", f"{cost.peak_bytes / 1e9:.2f} GB")],
    )


if __name__ == "__main__":
    main()
