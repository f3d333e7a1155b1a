"""`edgephi tune` beside the truth: the same candidates, measured in the same way with all of their layers.

On a processor with a very large cache a cut is no shorter than the model: `--depths` says what else to try.
The whole bundles lie in --scratch at the same time. Runs are repeated until the two best of a candidate agree
within 3 %, or there are three times as many: on a busy machine neither side can be trusted.
"""

import argparse
import tempfile
import time
from pathlib import Path

from edgephi.build.build import find_checkpoint
from edgephi.build.choosing.this_machine import survey
from edgephi.build.choosing.tune import Tuning, cut_depths, tune, variants
from edgephi.checkpoint.config import load_architecture
from edgephi.cli.show.machine import warn_when_busy
from edgephi.cli.show.progress import step
from edgephi.declared.recipe import recipe_for
from edgephi.machine.bandwidth import last_level_cache_bytes
from edgephi.machine.measurement import BenchRequest
from edgephi.runtime.proof.measure import measure
from tests.bench.measure import report


def main() -> None:
    """Measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("checkpoint", help="a folder, or what else `edgephi build` takes")
    arguments.add_argument("--prompt-tokens", type=int, default=128)
    arguments.add_argument("--generate", type=int, default=64)
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument(
        "--depths",
        metavar="N,N",
        help="layers to extrapolate from [default: as `edgephi tune` chooses them here]",
    )
    arguments.add_argument("--scratch", type=Path, default=None, help="folder for the artifacts")
    options = arguments.parse_args()
    recipe = recipe_for(options.checkpoint)
    located = find_checkpoint(options.checkpoint, recipe, None, progress=False)
    architecture = load_architecture(located.folder)
    machine = survey()
    warn_when_busy(machine.host)
    candidates, _ = variants(
        options.checkpoint,
        architecture,
        recipe,
        [state.target for state in machine.targets if not (state.build_problem or state.run_problem)],
        context=None,
        free_bytes=lambda target: machine.memory_of(target.provider).free_bytes,
    )

    def timed(depths: tuple[int, ...]) -> tuple[Tuning, float]:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            tuning = tune(
                options.checkpoint,
                located,
                candidates,
                depths=depths,
                folder=Path(folder),
                request=BenchRequest((options.prompt_tokens,), options.generate),
                runs=options.runs,
                context=None,
                measure=measure,
                step=step,
            )
        return tuning, time.perf_counter() - start

    depths = cut_depths(architecture, recipe.quant.bits, last_level_cache_bytes())
    if options.depths:
        depths = tuple(map(int, options.depths.split(",")))
    cut, cut_seconds = timed(depths)
    whole, whole_seconds = timed((architecture.layers,))
    truth = {each.variant.name: each for each in whole.estimates}
    best = whole.estimates[0].answer_seconds
    rows = []
    for each in cut.estimates:
        name = each.variant.name
        if name in truth:
            found = truth[name].answer_seconds
            rows.append(
                (
                    name,
                    f"{each.answer_seconds:.3f} s",
                    f"{each.spread:.1%}",
                    f"{found:.3f} s",
                    f"{truth[name].spread:.1%}",
                    f"{each.answer_seconds / found - 1:+.1%}",
                    f"{found / best:.3f}",
                )
            )
    header = ("", "extrapolated", "spread", "whole", "spread", "error", "times the best")
    report(header, rows)
    print(f"depths {list(cut.estimates[0].depths)} of {architecture.layers} layers")
    print(f"the choice, {rows[0][0]}, takes {rows[0][-1]} times as long as the best")
    print(f"extrapolated in {cut_seconds:.0f} s, built and measured whole in {whole_seconds:.0f} s")


if __name__ == "__main__":
    main()
