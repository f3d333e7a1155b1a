"""Decode speed and memory of `edgephi.runtime`, beside a bare loop of the same engine over the same artifact.

The bare loop is what the engine's own documentation shows, for the same prompt of tokens and with the
settings that the adapter uses: they are printed. Every run is a process of its own. Runs alternate, and so
does which side comes first, so that a busy moment of the machine meets both. Of each process the first answer
warms up, where there are more; the medians of the others are compared.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgephi.bundle.manifest import ARTIFACT_FOLDER
from tests.bench.engine_loop import Side
from tests.bench.measure import report


def main() -> None:
    """Measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("bundle", type=Path)
    arguments.add_argument("--tokens", type=int, default=64, help="tokens to decode in each answer")
    arguments.add_argument("--runs", type=int, default=4, help="processes of each side")
    arguments.add_argument("--repeats", type=int, default=2, help="answers of each process")
    arguments.add_argument("--provider", help="another provider than the bundle's own")
    options = arguments.parse_args()
    common = ["--tokens", str(options.tokens), "--repeats", str(options.repeats)]
    own = [str(options.bundle), *common, *(["--provider", options.provider] if options.provider else [])]
    ours: list[Side] = []
    bare: list[Side] = []
    for number in range(options.runs):
        # The bare loop is told what ours has set, so the very first run is one of ours.
        first_is_bare = number % 2 == 1
        if first_is_bare:
            bare.append(_bare(options.bundle, common, ours[0]))
        ours.append(_run("tests.bench.session_loop", own))
        if not first_is_bare:
            bare.append(_bare(options.bundle, common, ours[0]))
    name = ours[0].engine
    speeds = [statistics.median(_warm_speeds(sides)) for sides in (ours, bare)]
    peaks = [statistics.median(side.peak_bytes for side in sides) for sides in (ours, bare)]
    tokens = [min(side.tokens for side in sides) for sides in (ours, bare)]
    settings = ", ".join(f"{key} {value}" for key, value in ours[0].settings.items())
    print(f"both sides: {settings}; {len(ours[0].prompt)} tokens of prompt")
    rows = [
        (
            f"edgephi.runtime, {options.runs} processes",
            f"{speeds[0]:.2f}",
            f"{speeds[0] / speeds[1]:.3f}",
            f"{tokens[0]}",
            f"{peaks[0] / 1e6:.0f} MB",
            f"{(peaks[0] - peaks[1]) / 1e6:+.0f} MB",
        ),
        (f"bare {name}, as many", f"{speeds[1]:.2f}", "1", f"{tokens[1]}", f"{peaks[1] / 1e6:.0f} MB", ""),
    ]
    report(("", "decode tokens/s", "ratio", "tokens", "peak memory", "difference"), rows)


def _warm_speeds(sides: Sequence[Side]) -> list[float]:
    """The speeds of all answers but the first of each process, unless that is all there is."""
    return [speed for side in sides for speed in (side.speeds[1:] or side.speeds)]


def _bare(bundle: Path, common: Sequence[str], like: Side) -> Side:
    """A run of the engine alone, with the prompt and the settings of `like`."""
    text = json.dumps(dataclasses.asdict(like))
    return _run("tests.bench.engine_loop", [str(bundle / ARTIFACT_FOLDER), *common], text)


def _run(module: str, arguments: Sequence[str], text: str = "") -> Side:
    """What a process of one side has printed last. Raises SystemExit when it fails."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}\n{done.stderr[-2000:]}")
    return Side(**json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
