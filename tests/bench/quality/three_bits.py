"""`python -m tests.bench.quality.three_bits DIR`: whether 3 bits would win, for what they save spent on 8.

The matrices of a trained model's layers, in groups of 32 with zero points, scales weighted by their inputs;
nothing is folded, and embedding and head are exact. A share of the weights gets 3 bits, those first whose
error grows least by it, and what that saves gives 8 bits to those whose error shrinks most.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgephi.quantize.groups import restored
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan
from tests.bench.measure import report
from tests.bench.quality.__main__ import read_text
from tests.bench.quality.harness import Floats, Harness, mean
from tests.bench.quality.quantised import Subject

_SHARES = (0.05, 0.1, 0.2)
_SIZE: Literal[32] = 32
_FEW, _PLAIN, _MANY = 3, 4, 8

Bits = Mapping[str, int]


def main() -> None:
    """Quantise, measure, print."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("checkpoint", type=Path, help="a folder with a trained model of the Phi-3 family")
    checkpoint = arguments.parse_args().checkpoint
    text = read_text(checkpoint, None)
    harness = Harness(checkpoint, text.evaluation)
    with tempfile.TemporaryDirectory() as scratch:
        subject = Subject(checkpoint, harness, text, Path(scratch))
        found, errors = _quantised(subject)
    weights = {name: subject.original[name].size for name in subject.matrices}
    plain = dict.fromkeys(weights, _PLAIN)
    choices: dict[str, Bits] = {"all 4": plain, "all 3": dict.fromkeys(weights, _FEW)}
    for share in _SHARES:
        mixed = _mixed(share, weights, errors)
        choices[f"{share:.0%} at 3, for others at 8"] = mixed
        choices[f"the same at 8, and none at 3 ({share:.0%})"] = {
            name: max(bits, _PLAIN) for name, bits in mixed.items()
        }
    rows = []
    for what, bits in choices.items():
        arrays = {**subject.original, **{name: found[name, bits[name]] for name in weights}}
        measured = harness.measure(arrays)
        stored = sum(count * _bits(bits[name]) for name, count in weights.items()) / sum(weights.values())
        rows.append((what, f"{stored:.2f}", f"{mean(measured.kl):.4f}", f"{mean(measured.top1):.1%}"))
    report(("", "bits", "KL", "top-1"), rows)


def _quantised(subject: Subject) -> tuple[dict[tuple[str, int], Floats], dict[tuple[str, int], float]]:
    """Every matrix at each number of bits, dequantised, and the squared error of its products."""
    found, errors, quantizer = {}, {}, Quantizer()
    for name in subject.matrices:
        weights, importance = np.ascontiguousarray(subject.original[name]), subject.inputs[name]
        for bits in (_FEW, _PLAIN, _MANY):
            width: Any = bits  # no format of a bundle has 3
            scheme = Scheme(width, _SIZE, symmetric=False)
            plan = TensorPlan(scheme, "rtn" if bits == _MANY else "weighted", importance=importance)
            values = restored(quantizer.quantize(weights, plan), scheme)
            found[name, bits] = values
            errors[name, bits] = float(np.square(values - weights).sum(axis=0, dtype=np.float64) @ importance)
    return found, errors


def _mixed(share: float, weights: Mapping[str, int], errors: Mapping[tuple[str, int], float]) -> Bits:
    """3 bits for a share of the weights, and 8 for as many others as that saves bits for."""

    def growth(name: str) -> float:
        return (errors[name, _FEW] - errors[name, _PLAIN]) / weights[name]

    def gain(name: str) -> float:
        return (errors[name, _PLAIN] - errors[name, _MANY]) / weights[name]

    chosen, left = dict.fromkeys(weights, _PLAIN), share * sum(weights.values())
    saved = 0
    for name in sorted(weights, key=growth):
        if weights[name] <= left:
            chosen[name] = _FEW
            left -= weights[name]
            saved += weights[name]
    room = saved / (_MANY - _PLAIN)
    for name in sorted(weights, key=gain, reverse=True):
        if chosen[name] == _PLAIN and weights[name] <= room:
            chosen[name] = _MANY
            room -= weights[name]
    return chosen


def _bits(bits: int) -> float:
    """With a scale of 16 bits and a zero point for each group."""
    return bits + (16 + bits) / _SIZE


if __name__ == "__main__":
    main()
