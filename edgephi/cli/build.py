"""`edgephi build`: a checkpoint becomes a proven bundle."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from edgephi.cli.argument_types import NAME, WrittenPath
from edgephi.cli.options import (
    adapter_option,
    context_option,
    group_size_option,
    json_option,
    method_option,
    model_argument,
    portable_option,
    quality_option,
    recipe_option,
    revision_option,
    soc_option,
    target_option,
    wrong_routing_option,
)
from edgephi.cli.show.say import say, say_document
from edgephi.cli.system_message import system_message
from edgephi.commands import edgephi_command

if TYPE_CHECKING:
    from edgephi.build.request import WheelsRequest
    from edgephi.bundle.certificate import VerifyLevel
    from edgephi.declared.quality import Quality
    from edgephi.declared.recipe import GroupSize, Method, Recipe
    from edgephi.declared.target import Target


@click.command(no_args_is_help=True)
@model_argument
@target_option
@soc_option
@click.option(
    "-o",
    "--output",
    required=True,
    type=WrittenPath(),
    metavar="DIR",
    help="Folder to write the bundle to; must not exist.",
)
@click.option(
    "--name", type=NAME, metavar="NAME", help="What the bundle is called. [default: its recipe and target]"
)
@adapter_option
@recipe_option
@quality_option
@method_option
@click.option(
    "--calibrate",
    type=click.Path(exists=True, path_type=Path),
    metavar="FILE|DIR",
    help="Text like that which the model will see, to measure inputs on: .txt, .md, .json or .jsonl. "
    "Without it a text of edgephi's own.",
)
@group_size_option
@portable_option
@wrong_routing_option
@click.option(
    "--system",
    metavar="TEXT",
    help="System message of conversations with the bundle that bring none; @FILE reads it. [default: the "
    "recipe's]",
)
@click.option(
    "--verify",
    type=click.Choice(["quick", "full", "off"]),
    default="quick",
    show_default=True,
    help="Measure the bundle on little text, on enough to judge its quality by, or not at all.",
)
@click.option(
    "--exporter",
    type=click.Choice(["edgephi", "upstream"]),
    default="edgephi",
    show_default=True,
    help="Who writes the artifact: edgephi, or the engine's own converter (needs PyTorch and much memory).",
)
@context_option
@revision_option
@click.option(
    "--sequence",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Number of this release; devices refuse to go back to a lower one.",
)
@click.option(
    "--security-floor",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Once this release is on a device that checks signatures, it never goes back below release N.",
)
@click.option(
    "--wheels",
    "platforms",
    multiple=True,
    metavar="PLATFORM",
    help="Put in all that installs edgephi and the engine without a network, such as linux-aarch64-cp311; "
    "may be given again.",
)
@click.option(
    "--wheels-for",
    "purpose",
    type=click.Choice(["serve", "run"]),
    default="serve",
    show_default=True,
    help="With --wheels: for all commands of a device, or for all but serve.",
)
@json_option
def build(
    model: str,
    *,
    target_name: str,
    soc: str | None,
    output: Path,
    name: str | None,
    adapter_names: tuple[str, ...],
    recipe_name: str | None,
    quality: "Quality",
    method: "Method | None",
    calibrate: Path | None,
    group_size: "GroupSize | None",
    portable: bool,
    accept_wrong_routing: bool,
    system: str | None,
    verify: "VerifyLevel",
    exporter: "Literal['edgephi', 'upstream']",
    context: int | None,
    revision: str | None,
    sequence: int,
    security_floor: int,
    platforms: tuple[str, ...],
    purpose: "Literal['serve', 'run']",
    as_json: bool,
) -> None:
    """Build a model for a target: quantise, export, verify, seal.

    MODEL is a recipe's name ("demo" and "demo-vision" are inside the package), a hub id (owner/name), or a
    checkpoint's folder. Nothing is left behind when the build fails, is interrupted, or the certificate is
    past the recipe's gate; but layers that are calibrated stay beside it when it is interrupted, and the same
    build goes on there.
    """
    import functools

    from edgephi.build.build import build as build_bundle
    from edgephi.build.build import find_checkpoint
    from edgephi.build.choosing.this_machine import check_proof
    from edgephi.build.plan import make_plan
    from edgephi.build.request import BuildRequest
    from edgephi.bundle.unfinished import check_destination
    from edgephi.checkpoint.adapter.locate_adapter import locate_adapters
    from edgephi.cli.show.built import built_summary
    from edgephi.cli.show.progress import step
    from edgephi.cli.show.wheels import wheels_command, wheels_summary
    from edgephi.declared.quality import as_asked
    from edgephi.declared.recipe import check_system, read_recipe, recipe_for
    from edgephi.declared.target import for_soc
    from edgephi.engines.facts.registry import facts_of
    from edgephi.errors import UsageError
    from edgephi.machine.memory import available_memory
    from edgephi.records import write_record

    if security_floor > sequence:
        raise UsageError(
            f"--security-floor: expected at most {sequence}, this release's number, found {security_floor}",
            hint=f"add --sequence {security_floor}, or give a lower floor",
        )
    _check_name(name)
    declared = read_recipe(recipe_name) if recipe_name else recipe_for(model)
    asked = functools.partial(
        as_asked, declared, quality, method=method, group_size=group_size, portable=portable
    )
    recipe = asked()
    if calibrate is not None and recipe.quant.method not in ("weighted", "calibrated"):
        raise UsageError(
            f"--calibrate: expected the method weighted or calibrated, found {recipe.quant.method}, "
            "which reads no text",
            hint="add --method weighted, or leave --calibrate out",
        )
    target = _chosen_target(target_name, model, recipe, revision=revision, context=context)
    target = for_soc(target, soc)
    recipe = asked(k_quants=facts_of(target.engine).native_groups == "K-quants")
    told = system_message(system)
    if told is not None:
        check_system(told, "--system")
        recipe = replace(recipe, chat=replace(recipe.chat, system=told))
    wheels = _wheels(platforms, purpose, target)
    check_destination(output)
    if verify != "off":
        check_proof(target)
    located = find_checkpoint(
        model,
        recipe,
        revision,
        progress=True,
        check=lambda architecture: make_plan(
            model,
            architecture,
            recipe,
            target,
            context=context,
            accept_wrong_routing=accept_wrong_routing,
        ),
    )
    adapters = locate_adapters(adapter_names, progress=True)
    request = BuildRequest(
        model=model,
        target=target,
        recipe=recipe,
        output=output,
        revision=revision,
        verify=verify,
        context=context,
        sequence=sequence,
        security_floor=security_floor,
        upstream=exporter == "upstream",
        available_memory=available_memory(),
        wheels=wheels,
        calibrate=calibrate,
        quality=quality,
        adapters=adapters,
        system=f"@{Path(system[1:]).name}" if system is not None and system.startswith("@") else system,
        name=name,
        group_size=group_size,
        accept_wrong_routing=accept_wrong_routing,
    )
    built = build_bundle(request, located, step)
    if as_json:
        document = {
            "bundle": str(output),
            "manifest": write_record(built.manifest),
            "quantisation": write_record(built.quantisation),
        }
        say_document(document)
    else:
        say(built_summary(built))
        for wheelhouse in built.manifest.wheels:
            say(f"\n{wheels_summary(built.manifest, wheelhouse)}\n{wheels_command(output, wheelhouse)}")
        say(f"\n{edgephi_command('run', output, 'your question')}")


def _chosen_target(
    name: str, model: str, recipe: "Recipe", *, revision: str | None, context: int | None
) -> "Target":
    """The target of that name; of "auto" the best one here, with the reason on standard error."""
    from edgephi.declared.target import read_target

    if name != "auto":
        return read_target(name)
    from edgephi.build.choosing.rank import prospects, reason
    from edgephi.build.choosing.this_machine import survey

    ranked = prospects(survey(), model, recipe, revision=revision, context=context)
    say(reason(ranked), err=True)
    return ranked[0].candidate.target


def _check_name(name: str | None) -> None:
    """Raise UsageError for a name that no bundle may have."""
    from edgephi.bundle.manifest import LONGEST_NAME, is_bundle_name
    from edgephi.errors import UsageError
    from edgephi.guards.visible import visible

    if name is not None and not is_bundle_name(visible(name)):
        raise UsageError(
            f"--name: expected at most {LONGEST_NAME} letters without spaces around them, "
            f"found {name[: LONGEST_NAME + 1]!r}",
            hint="give a name such as door-7",
        )


def _wheels(platforms: tuple[str, ...], purpose: str, target: "Target") -> "WheelsRequest | None":
    """The wheels that were asked for, for the engine of a target."""
    if not platforms:
        return None
    from edgephi.build.request import WheelsRequest
    from edgephi.build.wheels.platform import read_platform
    from edgephi.engines.facts.registry import facts_of
    from edgephi.errors import NotSupportedError

    read = tuple(read_platform(name) for name in dict.fromkeys(platforms))
    for platform in read:
        if platform.machine not in target.arch:
            raise NotSupportedError(
                f"--wheels {platform.name}: target {target.name} is for {', '.join(target.arch)}",
                hint=f"choose another target: `{edgephi_command('targets')}`",
            )
    # A device that has a key must be able to check signatures, also when it flashes itself.
    extras = [facts_of(target.engine).provider(target.provider).extra, "trust"]
    if purpose == "serve":
        extras.append(purpose)
    return WheelsRequest(read, tuple(extras), purpose)
