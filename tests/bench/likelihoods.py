"""Log-likelihoods of lm-evaluation-harness through `edgephi serve`, beside transformers' on the same weights.

Builds the checkpoint for a CPU with activations in floats, as `kernels.accuracy_level` 0 of a target has
them, or in the int8 of the target `cpu`; serves the bundle; runs the harness from an environment of its own
on the items of `tests/server/clients`; and computes the same in transformers from the bundle's dequantised
weights.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

from edgephi.build.build import build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.bundle.manifest import ARTIFACT_FOLDER, read_manifest
from edgephi.declared.recipe import Recipe
from edgephi.declared.target import read_target
from edgephi.steps import silent
from tests.bench.measure import report
from tests.client_environment import client_environment
from tests.export.oracle import transformers_model
from tests.server.clients.harness import REQUIREMENTS, evaluate, expected_likelihood
from tests.server.serving import serving

RECIPE = Recipe(name="likelihoods", summary="what can be read back")


def main() -> None:
    """Build, evaluate, compare, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("checkpoint", type=Path)
    arguments.add_argument("--int8", action="store_true", help="activations as the target `cpu` has them")
    arguments.add_argument("--environments", type=Path, default=Path(".pytest_cache/d/clients"))
    options = arguments.parse_args()
    python = client_environment(options.environments.resolve(), REQUIREMENTS)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bundle = _build(options.checkpoint.resolve(), folder / "bundle", int8=options.int8)
        with serving(bundle, folder, "--context", 2048) as server:
            name = read_manifest(bundle).name
            found = evaluate(python, server.url, name, bundle / ARTIFACT_FOLDER, folder, batch=8)
        model = transformers_model(options.checkpoint, bundle / ARTIFACT_FOLDER)
        tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
    rows = []
    largest = 0.0
    for each in found.likelihoods:
        expected, _ = expected_likelihood(model, tokenizer, each.context, each.continuation)
        largest = max(largest, abs(each.value - expected))
        text = f"{each.context}|{each.continuation}"
        rows.append((text, f"{each.value:.4f}", f"{expected:.4f}", f"{each.value - expected:+.4f}"))
    report(("item", "lm-eval through serve", "transformers", "difference"), rows)
    print(f"largest difference: {largest:.5f} nats of {len(rows)} items; accuracy {found.accuracy:.3f}")


def _build(checkpoint: Path, output: Path, *, int8: bool) -> Path:
    """The bundle of a checkpoint."""
    target = read_target("cpu")
    if not int8:
        kernels = dataclasses.replace(target.kernels, accuracy_level=0)
        target = dataclasses.replace(target, kernels=kernels)
    request = BuildRequest(
        model=str(checkpoint), target=target, recipe=RECIPE, output=output, verify="off", context=2048
    )
    build(request, find_checkpoint(str(checkpoint), RECIPE, None, progress=False), silent)
    return output


if __name__ == "__main__":
    main()
