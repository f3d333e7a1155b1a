"""`edgephi tune`: which target and group size are the fastest for a model on this machine."""

import contextlib
import dataclasses
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgephi.cli.argument_types import WrittenPath
from edgephi.cli.options import context_option, json_option, model_argument, recipe_option, revision_option
from edgephi.cli.show.say import say, say_document
from edgephi.commands import edgephi_command

if TYPE_CHECKING:
    from edgephi.build.choosing.this_machine import ThisMachine
    from edgephi.build.choosing.tune import Tuning, Variant

_WIDTH = 80
_CLOSE = 1.05


@click.command(no_args_is_help=True)
@model_argument
@recipe_option
@click.option(
    "--prompt-tokens",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    metavar="N",
    help="Length of the prompt whose answer is to come soonest.",
)
@click.option(
    "--generate",
    "generated_tokens",
    type=click.IntRange(min=2),
    default=64,
    show_default=True,
    metavar="N",
    help="Length of that answer.",
)
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Measurements of each candidate, more where they differ; the best one counts.",
)
@context_option
@revision_option
@click.option(
    "--keep",
    type=WrittenPath(file_okay=False),
    metavar="DIR",
    help="Build the candidates into this folder and leave them there. [default: a temporary one]",
)
@json_option
def tune(
    model: str,
    *,
    recipe_name: str | None,
    prompt_tokens: int,
    generated_tokens: int,
    runs: int,
    context: int | None,
    revision: str | None,
    keep: Path | None,
    as_json: bool,
) -> None:
    """Find the fastest target for a model here, by measuring.

    Every target that can be built and run here is tried with the recipe's group size and with others. Only
    the first layers of the model are built and measured, at two depths; the whole model's speed follows from
    them. The fastest is the one that reads the prompt and writes the answer in the least time.
    """
    from edgephi.build.build import find_checkpoint
    from edgephi.build.choosing.this_machine import survey
    from edgephi.build.choosing.tune import cut_depths, variants
    from edgephi.build.choosing.tune import tune as tune_model
    from edgephi.checkpoint.config import load_architecture
    from edgephi.cli.show.machine import warn_when_busy
    from edgephi.cli.show.progress import step
    from edgephi.declared.recipe import read_recipe, recipe_for
    from edgephi.machine.bandwidth import last_level_cache_bytes
    from edgephi.machine.measurement import BenchRequest
    from edgephi.runtime.proof.measure import measure

    recipe = read_recipe(recipe_name) if recipe_name else recipe_for(model)
    machine = survey()
    warn_when_busy(machine.host)
    located = find_checkpoint(model, recipe, revision, progress=True)
    architecture = load_architecture(located.folder)
    candidates, refused = variants(
        model,
        architecture,
        recipe,
        [state.target for state in machine.targets if not (state.build_problem or state.run_problem)],
        context=context,
        free_bytes=lambda target: machine.memory_of(target.provider).free_bytes,
    )
    with _folder(keep) as folder:
        tuning = tune_model(
            model,
            located,
            candidates,
            depths=cut_depths(architecture, recipe.quant.bits, last_level_cache_bytes()),
            folder=folder,
            request=BenchRequest((prompt_tokens,), generated_tokens),
            runs=runs,
            context=context,
            measure=measure,
            step=step,
        )
    tuning = dataclasses.replace(tuning, refused=(*refused, *tuning.refused))
    if as_json:
        say_document(_document(tuning))
    else:
        say(_text(model, machine, tuning))


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """The folder to build in: the one to keep, or a temporary one."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="edgephi-tune-") as name:
        yield Path(name)


def _document(tuning: "Tuning") -> dict[str, Any]:
    best = tuning.estimates[0]
    return {
        "choice": {
            "target": best.variant.target.name,
            "group_size": best.variant.plan.recipe.quant.group_size,
        },
        "layers": tuning.layers,
        "prompt_tokens": best.request.prompt_lengths[0],
        "generated_tokens": best.request.generated_tokens,
        "candidates": [
            {
                "target": estimate.variant.target.name,
                "engine": estimate.variant.target.engine,
                "provider": estimate.variant.target.provider,
                "group_size": estimate.variant.plan.recipe.quant.group_size,
                "artifact_bytes": estimate.variant.plan.artifact_bytes,
                "memory_bytes": estimate.variant.plan.memory.total,
                "answer_seconds": estimate.answer_seconds,
                "spread": estimate.spread,
                "load_seconds": estimate.whole.load,
                "prefill_tokens_per_second": estimate.prefill_tokens_per_second,
                "decode_tokens_per_second": estimate.decode_tokens_per_second,
                "measured": {
                    str(depth): dataclasses.asdict(times) for depth, times in estimate.depths.items()
                },
            }
            for estimate in tuning.estimates
        ],
        "refused": [
            {"candidate": each.name, "reason": each.problem.message, "hint": each.problem.hint}
            for each in tuning.refused
        ],
    }


def _text(model: str, machine: "ThisMachine", tuning: "Tuning") -> str:
    """The table of candidates and the recommendation, in at most 80 columns."""
    from edgephi.build.choosing.tune import AGREEMENT
    from edgephi.cli.show.machine import machine_line
    from edgephi.cli.show.numbers import rate, seconds
    from edgephi.cli.show.sizes import human_bytes
    from edgephi.cli.show.table import table

    best = tuning.estimates[0]
    rows = [
        (
            estimate.variant.target.name,
            str(estimate.variant.plan.recipe.quant.group_size),
            human_bytes(estimate.variant.plan.artifact_bytes),
            seconds(estimate.whole.load),
            rate(estimate.prefill_tokens_per_second),
            rate(estimate.decode_tokens_per_second),
            seconds(estimate.answer_seconds),
        )
        for estimate in tuning.estimates
    ]
    header = ("target", "groups", "artifact", "load", "prefill/s", "decode/s", "answer in")
    depths = " and ".join(map(str, best.depths))
    how = (
        f"{model}: prompt of {best.request.prompt_lengths[0]} tokens, "
        f"answer of {best.request.generated_tokens}; "
    )
    if tuple(best.depths) == (tuning.layers,):
        how += f"measured with all {tuning.layers} layers"
    else:
        how += f"extrapolated from {depths} of {tuning.layers} layers"
    lines = [
        *textwrap.wrap(machine_line(machine.host, machine.bytes_per_second), _WIDTH),
        *textwrap.wrap(how, _WIDTH, break_on_hyphens=False),
        "",
        table(rows, header, right=range(1, len(header))),
        "",
        *textwrap.wrap(_recommendation(model, tuning), _WIDTH, break_on_hyphens=False),
    ]
    noisy = [each.variant.name for each in tuning.estimates if each.spread > AGREEMENT]
    if noisy:
        warning = f"the best runs differ by more than {AGREEMENT:.0%}, so other programs were in the way: "
        lines += textwrap.wrap(warning + ", ".join(noisy), _WIDTH, break_on_hyphens=False)
    if tuning.refused:
        lines += ["", "not measured:"]
    for each in tuning.refused:
        label = f"  {each.name}: {each.problem.message}"
        lines += textwrap.wrap(label, _WIDTH, subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines)


def _recommendation(model: str, tuning: "Tuning") -> str:
    """What to build, and what is as good."""
    best, *others = tuning.estimates
    build = edgephi_command("build", model, "--target", best.variant.target.name)
    text = f"fastest: {build}, {_groups(best.variant)}"
    close = [other for other in others if other.answer_seconds <= _CLOSE * best.answer_seconds]
    if close:
        names = ", ".join(f"{other.variant.target.name} with {_groups(other.variant)}" for other in close)
        text += f"; within 5 %, so choose by size and exactness: {names}"
    return text


def _groups(variant: "Variant") -> str:
    return f"groups of {variant.plan.recipe.quant.group_size}"
