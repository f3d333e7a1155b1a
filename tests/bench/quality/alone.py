"""What rounding each matrix alone costs a trained model, beside what a build foretells of it.

A build that chooses what to keep at more bits (`[quant.keep]`) goes by an estimate: the squared error of a
matrix's products on some of its rows, times what such an error does to the model. Here each matrix is
quantised as that build plans it, all others stay what they are, and the harness measures. With errors alone,
without what they do, only an order is foretold.

`python -m tests.bench.quality.alone CHECKPOINT`
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgephi.build.mixed_precision import candidates, gains
from edgephi.build.plan import make_plan
from edgephi.build.weighing import weighed
from edgephi.checkpoint.checkpoint import CheckpointWeights, open_checkpoint
from edgephi.checkpoint.roles import ModelTensor
from edgephi.declared.recipe import Keep, read_recipe
from edgephi.declared.target import read_target
from edgephi.export.tensor_names import tensor_name
from edgephi.quantize.groups import restored
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.tensor_plan import TensorPlan
from edgephi.reference.sensitivity import measure_sensitivity
from edgephi.steps import silent
from tests.bench.measure import report
from tests.bench.quality.__main__ import read_text
from tests.bench.quality.harness import Floats, Harness, mean

_PIECES, _TOKENS = 3, 32


def main() -> None:
    """Quantise each matrix alone, measure, print."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("checkpoint", type=Path, help="a folder with a trained model of the Phi-3 family")
    arguments.add_argument("--every", type=int, default=1, help="only each so many of the matrices")
    arguments.add_argument(
        "--text", type=Path, nargs="+", help="files of English instead of Debian's packages"
    )
    options = arguments.parse_args()
    text = read_text(options.checkpoint, options.text)
    pieces = [ids[:_TOKENS] for ids in text.evaluation[:_PIECES]]
    checkpoint = open_checkpoint(options.checkpoint, id="bench", revision="")
    weights = CheckpointWeights(checkpoint)
    recipe = read_recipe("default")
    recipe = replace(recipe, quant=replace(recipe.quant, keep=Keep(auto=1.0)))
    plan = make_plan("bench", checkpoint.architecture, recipe, read_target("cpu"))
    plan = weighed(plan, checkpoint, None, silent).plan
    better = candidates(plan)
    sensitivity = measure_sensitivity(weights, pieces)
    foretold = gains(plan, better, sensitivity, weights, lambda _: None)
    harness = Harness(options.checkpoint, pieces)
    found: dict[ModelTensor, float] = {}
    for tensor in [*better][:: options.every]:
        own = {tensor_name(tensor): _quantised(weights, tensor, plan.tensors[tensor])}
        found[tensor] = mean(harness.measure({**harness.original, **own}).kl)
        print(tensor, f"{found[tensor]:.5f}", f"{foretold[tensor]:.5f}", file=sys.stderr, flush=True)
    rows = [
        (str(tensor), f"{kl:.5f}", f"{foretold[tensor]:.5f}", f"{kl / foretold[tensor]:.2f}")
        for tensor, kl in sorted(found.items(), key=lambda item: -item[1])
    ]
    report(("", "KL", "foretold", "ratio"), rows)
    kl = [*found.values()]
    ratios = np.array([found[tensor] / foretold[tensor] for tensor in found])
    print(f"within a factor of two: {np.mean((ratios > 1 / 2) & (ratios < 2)):.0%}")
    foreknown = _ranks(kl, [foretold[tensor] for tensor in found])
    errors = _ranks(kl, [foretold[tensor] / sensitivity[tensor] for tensor in found])
    print(f"rank correlation with what is foretold: {foreknown:.2f}, by errors alone: {errors:.2f}")


def _quantised(weights: CheckpointWeights, tensor: ModelTensor, plan: TensorPlan) -> Floats:
    """A matrix as it would be stored, in the place of the original: folds taken back."""
    count = weights.architecture.tensor_shapes()[tensor][0]
    groups = Quantizer().quantize(plan.factored(weights.rows(tensor, 0, count)), plan)
    rows = restored(groups, plan.quantised)
    if plan.column_factors is not None:
        rows = rows / plan.column_factors
    return rows if plan.row_factors is None else rows / plan.row_factors[:, None]


def _ranks(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation."""
    first, second = (np.argsort(np.argsort(each)) for each in (one, other))
    return float(np.corrcoef(first, second)[0, 1])


if __name__ == "__main__":
    main()
