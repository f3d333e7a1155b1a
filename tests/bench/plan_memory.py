"""What a plan says of a device's memory, beside what the process takes.

    python -m tests.bench.plan_memory CHECKPOINT...

Each checkpoint is built for each target, without a proof, and run at each context, a process each. A plan is
right when it is never below, and at most a tenth above.

Measured is the most that a process has held at once, pages that it maps of the bundle's files included. They
are locked meanwhile: a kernel that is short of memory drops them, which says nothing about the process. An
engine that allocates its cache ahead is given a short prompt (--whole: one that fills the context, as for the
others): pieces of a prompt are of one size, and take the same wherever they are. Phi-3-mini's shape with four
layers took 830 MB with 200 and 831 MB with 4,000 tokens.

mlx-lm is measured on the CPU, with float32 as a bundle for CPUs has it. A token takes it seconds there, so
numbers are put into the cache where a prompt would have put its keys and values. Metal is not measured, and
neither is Qualcomm's NPU: what its emulator takes is not what a device takes.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np

from edgephi.build.build import build, find_checkpoint, plan_model
from edgephi.build.request import BuildRequest
from edgephi.declared.recipe import GroupSize, Recipe, read_recipe
from edgephi.declared.target import Target, read_target
from edgephi.steps import silent
from tests.bench.measure import high_water_mark, report

_TARGETS = ("cpu", "gguf", "openvino", "mlx")
_MOST = 1.1
_POLL_SECONDS = 0.02
_PROGRAM = """
import sys
from pathlib import Path
import edgephi.runtime
context, whole = int(sys.argv[2]), sys.argv[3] == "whole"
session = edgephi.runtime.load(Path(sys.argv[1]), context=context, warn=print)
engine = session.engine
words = engine.encode("The workshop at the end of the lane opens early, with drills, files and a vice. ")
cache = engine.open_cache(context)
length = context - 8 if whole or not engine.allocates_ahead else min(context - 8, 256)
if engine.name == "mlx-lm":
    import mlx.core as mx
    arguments = engine._model.args
    length -= length % 16
    shape = 1, arguments.num_key_value_heads, 16, arguments.hidden_size // arguments.num_attention_heads
    with engine.computing():
        for _ in range(length // 16):
            numbers = mx.random.normal(shape)
            for layer in cache._layers:
                layer.update_and_fetch(numbers, numbers)
            mx.eval([layer.state for layer in cache._layers])
            mx.clear_cache()
    cache._tokens, cache._computed = [words[0]] * length, length
    length = 1
for _ in cache.append([words[i % len(words)] for i in range(length)]):
    pass
for _ in range(3):
    for _ in cache.append([cache.next_greedy()]):
        pass
"""


def main() -> None:
    """Build, measure, print; end with 1 when a plan is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--targets", nargs="+", choices=_TARGETS, default=_TARGETS)
    parser.add_argument("--contexts", nargs="+", type=int, default=(1024, 4096))
    parser.add_argument("--group-sizes", nargs="+", type=int, choices=(32, 64, 128), default=(128,))
    parser.add_argument("--whole", action="store_true", help="prompts that fill the context, everywhere")
    parser.add_argument("--bundles", type=Path, help="where bundles stay, and are taken from")
    options = parser.parse_args()
    rows, wrong = [], False
    with tempfile.TemporaryDirectory() as scratch:
        for checkpoint, name, size in product(options.checkpoints, options.targets, options.group_sizes):
            target, recipe = _target(name), _recipe(size)
            bundle = _built(checkpoint, target, recipe, options.bundles or Path(scratch))
            most = plan_model(str(checkpoint), recipe, target).context
            for context in sorted({min(each, most) for each in options.contexts}):
                plan = plan_model(str(checkpoint), recipe, target, context=context)
                planned, measured = plan.memory.total, _measured(bundle, context, whole=options.whole)
                wrong |= not measured <= planned <= _MOST * measured
                model = f"{checkpoint.name}, groups of {plan.recipe.quant.group_size}"
                sizes = [f"{each / 1e6:,.0f} MB" for each in (planned, measured)]
                rows.append((name, model, f"{context:,}", *sizes, f"{planned / measured:.3f}"))
                print(*rows[-1], file=sys.stderr, flush=True)
            if options.bundles is None:
                shutil.rmtree(bundle)
    report(("target", "model", "context", "planned", "measured", "ratio"), rows)
    sys.exit(wrong)


def _target(name: str) -> Target:
    """A target of ours; MLX's on the CPU."""
    target = read_target(name)
    if target.engine != "mlx-lm":
        return target
    return dataclasses.replace(
        target, provider="cpu", kernels=dataclasses.replace(target.kernels, activations="float32")
    )


def _recipe(group_size: GroupSize) -> Recipe:
    default = read_recipe("default")
    return dataclasses.replace(
        default, quant=dataclasses.replace(default.quant, method="rtn", group_size=group_size)
    )


def _built(checkpoint: Path, target: Target, recipe: Recipe, folder: Path) -> Path:
    """The bundle in the folder; built unless it is there."""
    bundle = folder / f"{checkpoint.name}-{target.name}-{recipe.quant.group_size}"
    if not bundle.exists():
        request = BuildRequest(str(checkpoint), target, recipe, bundle, verify="off")
        build(request, find_checkpoint(str(checkpoint), recipe, None, progress=False), silent)
    return bundle


def _measured(bundle: Path, context: int, *, whole: bool) -> int:
    """The most bytes that a process takes which runs the bundle."""
    command = [sys.executable, "-P", "-c", _PROGRAM, str(bundle), str(context), "whole" if whole else ""]
    peak_bytes = 0
    with (
        _locked(bundle),
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, stdout=said, stderr=said) as process,
    ):
        while process.poll() is None:
            peak_bytes = max(peak_bytes, high_water_mark(process.pid))
            time.sleep(_POLL_SECONDS)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{bundle}: ended with {process.returncode}\n{said.read().decode()[-2000:]}")
    return peak_bytes


@contextlib.contextmanager
def _locked(bundle: Path) -> Iterator[None]:
    """The artifact's files stay in memory, where that is allowed."""
    library = ctypes.CDLL(None)
    files = [path for path in (bundle / "model").rglob("*") if path.is_file() and path.stat().st_size]
    mapped = [np.memmap(path, np.uint8, "r") for path in files]
    for pages in mapped:
        library.mlock(ctypes.c_void_p(pages.ctypes.data), ctypes.c_size_t(pages.nbytes))
    yield
    for pages in mapped:
        library.munlock(ctypes.c_void_p(pages.ctypes.data), ctypes.c_size_t(pages.nbytes))


if __name__ == "__main__":
    main()
