"""What each format costs on the device: how fast the same weights read prompts and answer, and their size.

`python -m tests.bench.formats CHECKPOINT [--targets cpu openvino gguf mlx] [--layers 8]` builds the first
layers of a checkpoint in every format that matters for a target, rounded to nearest, because speed does not
ask how good the codes are. Runs of different formats alternate; medians are printed, and each format's speed
beside that of the target's first one. Use a checkpoint of a real shape, whose layers fit into no cache.
"""

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path

from edgephi.build.build import build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.bundle.manifest import read_manifest
from edgephi.declared.recipe import Quant, Recipe
from edgephi.declared.target import read_target
from edgephi.machine.measurement import BenchRequest, Measurement
from edgephi.runtime.proof.measure import measure
from edgephi.steps import silent
from tests.bench.measure import report

_PORTABLE = Quant(method="rtn", group_size=32, formats="portable")
_NATIVE = Quant(method="rtn", group_size=32)
FORMATS = {
    "symmetric g32": _PORTABLE,
    "native g32": _NATIVE,
    "symmetric g64": dataclasses.replace(_PORTABLE, group_size=64),
    "native g64": dataclasses.replace(_NATIVE, group_size=64),
    "symmetric g128": dataclasses.replace(_PORTABLE, group_size=128),
}
_ONLY_32 = ("symmetric g32", "native g32")
"""llama.cpp has no other sizes of groups; what is native there are its K-quants."""
TARGETS = ("cpu", "openvino", "gguf", "mlx")


def main() -> None:
    """Build, measure, print."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("checkpoint", type=Path)
    arguments.add_argument("--targets", nargs="+", default=TARGETS)
    arguments.add_argument("--layers", type=int, default=8)
    arguments.add_argument("--prompt-tokens", type=int, default=128)
    arguments.add_argument("--generate", type=int, default=48)
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--scratch", type=Path, help="a folder with room for all formats of a target")
    options = arguments.parse_args()
    request = BenchRequest(
        provider="cpu", prompt_lengths=(options.prompt_tokens,), generated_tokens=options.generate
    )
    rows = []
    for target in options.targets:
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            names = _ONLY_32 if target == "gguf" else tuple(FORMATS)
            bundles = {
                name: _build(options.checkpoint, target, name, options.layers, Path(folder)) for name in names
            }
            runs: dict[str, list[Measurement]] = {name: [] for name in names}
            for _ in range(options.runs):
                for name, bundle in bundles.items():
                    runs[name].append(measure(bundle, request))
            rows += _rows(target, bundles, runs)
    columns = ("target", "format", "bits", "prefill", "decode", "of the first", "peak memory")
    report(columns, rows)


def _build(checkpoint: Path, target: str, name: str, layers: int, folder: Path) -> Path:
    recipe = Recipe(name=name.replace(" ", "-"), summary="a format", quant=FORMATS[name])
    output = folder / recipe.name
    request = BuildRequest(
        str(checkpoint), read_target(target), recipe, output, verify="off", layers=layers, context=1024
    )
    build(request, find_checkpoint(str(checkpoint), recipe, None, progress=False), silent)
    return output


def _rows(target: str, bundles: dict[str, Path], runs: dict[str, list[Measurement]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    first = 0.0
    for name, measured in runs.items():
        (prefill, decode) = (
            statistics.median(values)
            for values in zip(
                *(
                    (each.speeds[0].prefill_tokens_per_second, each.speeds[0].decode_tokens_per_second)
                    for each in measured
                ),
                strict=True,
            )
        )
        first = first or decode
        rows.append(
            (
                target,
                name,
                f"{read_manifest(bundles[name]).quant.bits_per_weight:.2f}",
                f"{prefill:.0f}/s",
                f"{decode:.1f}/s",
                f"{decode / first:.2f}",
                f"{statistics.median(each.peak_memory_bytes for each in measured) / 1e9:.2f} GB",
            )
        )
    return rows


if __name__ == "__main__":
    main()
