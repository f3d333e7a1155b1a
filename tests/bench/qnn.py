"""What a build for Qualcomm's NPU costs and what comes out, here: compiled for real, executed in emulation.

    python -m tests.bench.qnn operators           single operators, and the error of 4-bit weights
    python -m tests.bench.qnn answers             the demo on all held-out commands, beside the CPU's bundle
    python -m tests.bench.qnn layers CHECKPOINT   one and two layers of a model, and what all would take
    python -m tests.bench.qnn emit CHECKPOINT     the whole model's graphs and weights, without the compiler
    python -m tests.bench.qnn compile CHECKPOINT  the whole model, every part compiled

The emulator computes what the NPU computes; its speed says nothing about a device's.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from edgephi.build.tensor_plans import plan_tensors
from edgephi.checkpoint.checkpoint import open_checkpoint
from edgephi.checkpoint.first_layers import first_layers
from edgephi.declared.recipe import read_recipe
from edgephi.declared.soc import read_soc
from edgephi.declared.target import read_target
from edgephi.export.qnn import exporter as qnn
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan
from edgephi.reference.forward import final_hidden_states, logits
from tests.bench.measure import Cost, folder_bytes, report, run
from tests.export.qnn.answers import held_out_answers
from tests.export.qnn.emulator import Emulator
from tests.export.qnn.operators import convolution_error, product_error

_CONTEXT = 4096


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["operators", "answers", "layers", "emit", "compile", "build-layers"])
    parser.add_argument("checkpoint", nargs="?", type=Path)
    parser.add_argument("--layers", type=int, default=0, help="only so many layers, with build-layers")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "operators":
        _operators()
    elif arguments.what == "answers":
        _answers()
    elif arguments.what == "layers":
        _layers(arguments.checkpoint)
    elif arguments.what == "build-layers":
        _build(arguments.checkpoint, arguments.layers, arguments.output)
    else:
        _whole(arguments.checkpoint, compiled=arguments.what == "compile")


def _operators() -> None:
    rows = []
    for name in ("snapdragon-8-gen-3", "qcs6490"):
        options = qnn.provider_options(read_soc(name))
        ungrouped = {
            key: value for key, value in options.items() if key != "enable_block_quant_weight_optimization"
        }
        measured: dict[str, Callable[[], float]] = {
            "int4, a scale a row": partial(convolution_error, options),
            "int4, a scale a row, no zero points": partial(convolution_error, options, zero_points=False),
            "int4, groups": partial(convolution_error, options, groups=True),
            "int4, groups, without the option": partial(convolution_error, ungrouped, groups=True),
            "uint16 times int16": partial(product_error, options, "int16"),
            "uint16 times uint16": partial(product_error, options, "uint16"),
        }
        for what, measure in measured.items():
            try:
                rows.append((f"{name}: {what}", f"{measure():.1e}"))
            except Exception as cause:
                print(f"{name}: {what}: {str(cause).splitlines()[0]}", file=sys.stderr)
                rows.append((f"{name}: {what}", "rejected"))
    report(("", "relative error"), rows)
    weights = np.random.default_rng(0).normal(size=(1024, 3072)).astype(np.float32)
    errors = []
    for size in (32, 64, 128):
        scheme = Scheme(4, size)
        free = Quantizer().quantize(weights, TensorPlan(scheme))
        multiples = Quantizer().quantize(weights, TensorPlan(replace(scheme, scales="multiples")))
        errors.append(
            (
                f"groups of {size}",
                *(f"{each.sums.squared_error / each.sums.squared_norm:.2%}" for each in (free, multiples)),
            )
        )
    report(("normal weights, 4 bits: squared error", "free scales", "whole multiples of the row's"), errors)


def _answers() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = held_out_answers(Path(folder))
    rows = [
        ("bf16, transformers", f"{found.bf16:.1%}", ""),
        ("cpu, int4", f"{found.cpu:.1%}", ""),
        ("qnn, int4, emulated", f"{found.qnn:.1%}", f"{found.same_as_cpu:.1%}"),
    ]
    report((f"{found.commands} held-out commands", "right", "the CPU bundle's text"), rows)


@dataclass(frozen=True)
class _Built:
    """What building some layers took, in seconds and bytes."""

    emitting: Cost
    compiling: Cost
    binary_bytes: int


def _layers(checkpoint: Path) -> None:
    """Build one layer and two, run them, and add up what all layers would take."""
    whole = open_checkpoint(checkpoint, id=str(checkpoint), revision="local").architecture.layers
    built: dict[int, _Built] = {}
    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as scratch:
        for layers in (1, 2):
            output = Path(scratch) / str(layers)
            log = Path(scratch) / f"{layers}.log"
            command = [sys.executable, "-m", "tests.bench.qnn", "build-layers", str(checkpoint)]
            run([*command, "--layers", str(layers), "--output", str(output)], log=log)
            emitted, emit_peak, compiled, compile_peak = map(float, log.read_text().split()[-4:])
            built[layers] = _Built(
                Cost(emitted, int(emit_peak)),
                Cost(compiled, int(compile_peak)),
                (output / "part_0.bin").stat().st_size,
            )
        one, two = built[1], built[2]
        parts = -(-whole * (two.binary_bytes - one.binary_bytes) // qnn.LARGEST_PART_BYTES)
        in_part = whole / parts
        rows = [_row(f"{count} layer{'s' if count > 1 else ''}", each) for count, each in built.items()]
        more = _Built(
            Cost(_line(one.emitting.seconds, two.emitting.seconds, whole), two.emitting.peak_bytes),
            Cost(
                _line(one.compiling.seconds, two.compiling.seconds, whole),
                round(_line(one.compiling.peak_bytes, two.compiling.peak_bytes, in_part)),
            ),
            round(_line(one.binary_bytes, two.binary_bytes, whole)),
        )
        rows.append(_row(f"all {whole} in {parts} parts, extrapolated", more))
        report(("", "emitted", "memory", "compiled", "memory of a part", "binaries of layers"), rows)
        _run(checkpoint, 2, Path(scratch) / "2")


def _line(at_one: float, at_two: float, at: float) -> float:
    return at_one + (at - 1) * (at_two - at_one)


def _row(what: str, built: _Built) -> tuple[str, ...]:
    return (
        what,
        f"{built.emitting.seconds:.0f} s",
        f"{built.emitting.peak_bytes / 1e9:.2f} GB",
        f"{built.compiling.seconds:.0f} s",
        f"{built.compiling.peak_bytes / 1e9:.1f} GB",
        f"{built.binary_bytes / 1e6:.0f} MB",
    )


def _build(folder: Path, layers: int, output: Path) -> None:
    """Build, and print seconds and peak bytes of emitting and of compiling."""
    checkpoint = open_checkpoint(folder, id=str(folder), revision="local")
    if layers:
        checkpoint = first_layers(checkpoint, layers)
    plans = plan_tensors(checkpoint.architecture, read_recipe("default").quant)
    output.mkdir()
    moments = [time.perf_counter()]
    peaks: list[int] = []
    emit = qnn.emit

    def timed_emit(*given: object, **named: object) -> qnn.Emitted:
        emitted = emit(*given, **named)  # type: ignore[arg-type]
        moments.append(time.perf_counter())
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return emitted

    qnn.emit = timed_emit
    qnn.write_artifact(output, checkpoint, plans, read_target("qnn"), _CONTEXT)
    moments.append(time.perf_counter())
    peaks.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
    print(moments[1] - moments[0], peaks[0], moments[2] - moments[1], peaks[1])


def _run(folder: Path, layers: int, artifact: Path) -> None:
    """Run some real-width layers in emulation, beside the reference with the same weights and rounding."""
    checkpoint = first_layers(open_checkpoint(folder, id=str(folder), revision="local"), layers)
    ids = np.random.default_rng(0).integers(0, checkpoint.architecture.vocabulary_size, 4).tolist()
    emulator = Emulator(artifact, checkpoint.architecture)
    start = time.perf_counter()
    found = np.concatenate([emulator.prefill(ids[:3]), [emulator.step(ids[3])]])
    weights = qnn.artifact_weights(artifact, checkpoint.architecture)
    expected = logits(weights, final_hidden_states([weights], [ids])[0])
    off = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    same = np.mean(found.argmax(1) == expected.argmax(1))
    print(
        f"{layers} layers compiled and run in emulation in {time.perf_counter() - start:.0f} s: relative "
        f"error of the logits {off:.1e}, the same first word {same:.0%}"
    )


def _whole(folder: Path, *, compiled: bool) -> None:
    checkpoint = open_checkpoint(folder, id=str(folder), revision="local")
    plans = plan_tensors(checkpoint.architecture, read_recipe("default").quant)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        output = Path(scratch)
        start = time.perf_counter()
        write = qnn.write_artifact if compiled else qnn.emit
        write(output, checkpoint, plans, read_target("qnn"), _CONTEXT)
        seconds = time.perf_counter() - start
        own, children = (
            resource.getrusage(who).ru_maxrss * 1024
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        binaries = sum(
            path.stat().st_size
            for path in output.glob("*.bin")
            if path.name not in ("embedding.bin", "rope.bin")
        )
        row = (
            f"{checkpoint.architecture.layers} layers",
            f"{seconds:.0f} s",
            f"{own / 1e9:.2f} GB",
            f"{children / 1e9:.1f} GB",
            f"{folder_bytes(output / 'graphs') / 1e9:.2f} GB",
            f"{binaries / 1e9:.2f} GB",
        )
    report(("", "wall", "memory", "memory of a child", "graphs and weights", "binaries"), [row])


if __name__ == "__main__":
    main()
