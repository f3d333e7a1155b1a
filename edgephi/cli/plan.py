"""`edgephi plan`: what a build would make and need, without downloading or writing anything big."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

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
from edgephi.guards.visible import visible

if TYPE_CHECKING:
    from edgephi.build.choosing.rank import Prospect
    from edgephi.build.choosing.this_machine import ThisMachine
    from edgephi.build.plan import Plan
    from edgephi.checkpoint.tokenizer import TokenizerFacts
    from edgephi.declared.quality import Quality
    from edgephi.declared.recipe import GroupSize, Method, Recipe
    from edgephi.declared.target import Target

_WIDTH = 80
_LABEL = 11


@click.command(no_args_is_help=True)
@model_argument
@target_option
@soc_option
@adapter_option
@recipe_option
@quality_option
@method_option
@group_size_option
@portable_option
@wrong_routing_option
@context_option
@revision_option
@click.option(
    "--here",
    is_flag=True,
    help="Hold the plan against this machine's free memory and bandwidth, instead of the target's.",
)
@json_option
def plan(
    model: str,
    *,
    target_name: str,
    soc: str | None,
    adapter_names: tuple[str, ...],
    recipe_name: str | None,
    quality: "Quality",
    method: "Method | None",
    group_size: "GroupSize | None",
    portable: bool,
    accept_wrong_routing: bool,
    context: int | None,
    revision: str | None,
    here: bool,
    as_json: bool,
) -> None:
    """Print all that a build would do, and write nothing.

    MODEL is what `edgephi build` takes. Models with a recipe need no network. With `--target auto` every
    target that this machine can run is planned, and the best named. Exit code 3 means that it cannot fit,
    with the reason.
    """
    import functools

    from edgephi.build.build import find_architecture, find_tokenizer, plan_model
    from edgephi.checkpoint.adapter.locate_adapter import asked_for, locate_adapters
    from edgephi.cli.show.model.chat_form import tokenizer_document
    from edgephi.cli.show.qualities import qualities_document, qualities_table
    from edgephi.declared.quality import as_asked
    from edgephi.declared.recipe import read_recipe, recipe_for
    from edgephi.declared.target import for_soc, read_target

    declared = read_recipe(recipe_name) if recipe_name else recipe_for(model)
    asked = functools.partial(as_asked, declared, method=method, group_size=group_size, portable=portable)
    recipe = asked(quality)
    adapters = locate_adapters(adapter_names, progress=True)
    if target_name == "auto":
        find_architecture(model, recipe, revision, adapters)  # whether they fit: they change no size
        from edgephi.build.choosing.rank import prospects
        from edgephi.build.choosing.this_machine import survey

        machine = survey()
        ranked = prospects(machine, model, recipe, revision=revision, context=context)
        if as_json:
            say_document(_ranking(machine, ranked))
        else:
            say(_choice(machine, ranked))
        return
    target = for_soc(read_target(target_name), soc)
    if here:
        from edgephi.build.choosing import this_machine

        target = this_machine.here(target)
    recipe = asked(quality, k_quants=_has_k_quants(target))
    made = plan_model(
        model,
        recipe,
        target,
        revision=revision,
        context=context,
        adapters=adapters,
        accept_wrong_routing=accept_wrong_routing,
    )
    tokenizer = find_tokenizer(model, recipe, revision, adapters)
    qualities = _qualities(made, asked, quality, target, context)
    if as_json:
        say_document(
            {
                **_document(made),
                **tokenizer_document(tokenizer),
                "adapters": [asked_for(adapter) for adapter in adapters],
                "qualities": qualities_document(qualities),
            }
        )
    else:
        say(_text(made, tokenizer, [asked_for(adapter) for adapter in adapters]))
        say(f"\n{qualities_table(qualities)}")


def _has_k_quants(target: "Target") -> bool:
    from edgephi.engines.facts.registry import facts_of

    return facts_of(target.engine).native_groups == "K-quants"


def _qualities(
    made: "Plan",
    asked: "Callable[..., Recipe]",
    quality: "Quality",
    target: "Target",
    context: int | None,
) -> Mapping["Quality", "Plan | str"]:
    """A plan for each quality, that which is made already among them, or why it cannot be had.

    `asked` is the recipe as the user asks for it at one of them.
    """
    from edgephi.build.plan import make_plan
    from edgephi.declared.quality import QUALITIES
    from edgephi.errors import CannotServeError

    found: dict[Quality, Plan | str] = {}
    for each in QUALITIES:
        try:
            own = asked(each, k_quants=_has_k_quants(target))
            found[each] = (
                made
                if each == quality
                else make_plan(
                    made.model,
                    made.architecture,
                    own,
                    target,
                    context=context,
                    alternatives=False,
                    accept_wrong_routing=bool(made.deviation),
                )
            )
        except CannotServeError as problem:
            found[each] = problem.message
    return found


def _ranking(machine: "ThisMachine", ranked: "Sequence[Prospect]") -> dict[str, Any]:
    from edgephi.build.choosing.rank import reason

    best = ranked[0]
    assert best.plan is not None  # noqa: S101 - what was chosen has a plan
    return {
        "choice": best.candidate.target.name,
        "reason": reason(ranked),
        "machine": {
            "processor": machine.host.processor.model,
            "available_bytes": machine.host.available_bytes,
            "read_bytes_per_second": round(machine.bytes_per_second),
        },
        "plan": _document(best.plan),
        "targets": [_prospect(prospect) for prospect in ranked],
    }


def _prospect(prospect: "Prospect") -> dict[str, Any]:
    plan, target, problem = prospect.plan, prospect.candidate.target, prospect.problem
    return {
        "target": target.name,
        "engine": target.engine,
        "provider": target.provider,
        "possible": problem is None,
        "reason": problem.message if problem else None,
        "hint": problem.hint if problem else None,
        "artifact_bytes": plan.artifact_bytes if plan else None,
        "memory_bytes": plan.memory.total if plan else None,
        "context": plan.context if plan else None,
        "largest_context": prospect.largest_context if plan else None,
        "decode_tokens_per_second_limit": prospect.decode_limit,
        "decode_tokens_per_second_expected": prospect.expected_decode if prospect.decode_share else None,
    }


def _choice(machine: "ThisMachine", ranked: "Sequence[Prospect]") -> str:
    """The table of what can be chosen, the reason for the choice, and what cannot be chosen."""
    from edgephi.build.choosing.rank import reason
    from edgephi.cli.show.machine import machine_line
    from edgephi.cli.show.sizes import human_bytes, human_count
    from edgephi.cli.show.table import table

    best = ranked[0].plan
    assert best is not None  # noqa: S101 - what was chosen has a plan
    rows, refused = [], []
    for prospect in ranked:
        plan, problem, name = prospect.plan, prospect.problem, prospect.candidate.target.name
        if problem is not None:
            refused.append((name, problem.message, problem.hint))
        if plan is not None:
            limit = f"{prospect.decode_limit:.1f}" if prospect.decode_limit else "-"
            expected = f"{prospect.expected_decode:.1f}" if prospect.decode_share else "-"
            sizes = human_bytes(plan.artifact_bytes), human_bytes(plan.memory.total)
            rows.append((name, *sizes, str(prospect.largest_context), limit, expected))
    header = ("target", "artifact", "memory", "context that fits", "decode limit", "expected")
    lines = [
        f"model    {best.model} ({human_count(best.architecture.parameters)} parameters), "
        f"recipe {best.recipe.name}, context {best.context}",
        *textwrap.wrap(
            machine_line(machine.host, machine.bytes_per_second),
            _WIDTH,
            initial_indent="machine  ",
            subsequent_indent=" " * 9,
        ),
        "",
        table(rows, header, right=range(1, 6)),
        "",
        *textwrap.wrap(reason(ranked), _WIDTH, break_on_hyphens=False),
    ]
    if refused:
        lines += ["", "not here:"]
    for name, message, hint in refused:
        label = f"  {name}: "
        lines += textwrap.wrap(label + message, _WIDTH, subsequent_indent="    ", break_on_hyphens=False)
        lines += textwrap.wrap("    " + hint, _WIDTH, subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines)


def _document(plan: "Plan") -> dict[str, Any]:
    from edgephi.cli.show.model.images import images_document

    quant = plan.recipe.quant
    return {
        "model": plan.model,
        "recipe": plan.recipe.name,
        "target": plan.target.name,
        "engine": plan.target.engine,
        "provider": plan.target.provider,
        "soc": plan.target.soc or None,
        "parameters": plan.architecture.parameters,
        "active_parameters": plan.architecture.active_parameters,
        "quant": {
            "method": quant.method,
            "bits": quant.bits,
            "group_size": quant.group_size,
            "symmetric": quant.symmetric,
            "formats": quant.formats,
            "embedding_bits": quant.embedding_bits,
            "head_bits": quant.head_bits,
            "expert_bits": quant.expert_bits,
            "kept": list(plan.kept),
            "keep_auto": quant.keep.auto,
            "bits_per_weight_budget": quant.bits_per_weight,
            "bits_per_weight": plan.bits_per_weight,
        },
        "images": images_document(plan.architecture, quant),
        "context": plan.context,
        "model_context": plan.architecture.context,
        "largest_context": plan.largest_context,
        "artifact_bytes": plan.artifact_bytes,
        "at_most": plan.undecided,
        "memory_bytes": {
            "weights": plan.memory.weights,
            "kv_cache": plan.memory.kv_cache,
            "scratch": plan.memory.scratch,
            "total": plan.memory.total,
        },
        "decode_tokens_per_second_limit": plan.decode_tokens_per_second,
        "deviation": plan.deviation or None,
    }


def _kept(plan: "Plan") -> list[tuple[str, str]]:
    """What is stored otherwise than other matrices of its kind, if anything is."""
    from edgephi.cli.show.built import smaller_groups_line

    quant, lines = plan.recipe.quant, []
    if plan.in_smaller_groups:
        lines.append(smaller_groups_line(plan))
    if plan.kept:
        names = plan.kept[0] if len(plan.kept) == 1 else f"{len(plan.kept)} of the matrices"
        lines.append(f"{names} at more bits")
    if quant.keep.auto:
        lines.append(
            f"{100 * quant.keep.auto:.3g} % of the layers' weights at more bits: the build chooses which"
        )
    if quant.bits_per_weight is not None:
        lines.append("more bits for as much as the budget allows: the build chooses what")
    return [("", line) for line in lines]


def _wrapped(label: str, text: str) -> list[tuple[str, str]]:
    """The rows of a text that takes more than a line."""
    lines = textwrap.wrap(text, _WIDTH - _LABEL, break_on_hyphens=False)
    return [(label if line is lines[0] else "", line) for line in lines]


def _chip(name: str) -> str:
    from edgephi.declared.soc import read_soc

    soc = read_soc(name)
    return f"{soc.name} ({soc.chips[0]}), Hexagon v{soc.htp_arch}"


def _text(plan: "Plan", tokenizer: "TokenizerFacts | None", adapters: "Sequence[str]") -> str:
    from edgephi.cli.show.model.chat_form import tokenizer_rows
    from edgephi.cli.show.model.experts import expert_bits, experts_rows
    from edgephi.cli.show.model.images import images_rows
    from edgephi.cli.show.qualities import at_most
    from edgephi.cli.show.sizes import human_bytes, human_count
    from edgephi.cli.show.table import table
    from edgephi.engines.facts.groups import groups_in_words

    quant = plan.recipe.quant
    groups = groups_in_words(
        quant.group_size, symmetric=quant.symmetric, formats=quant.formats, engine=plan.target.engine
    )
    rows = [
        ("model", f"{plan.model} ({human_count(plan.architecture.parameters)} parameters)"),
        *experts_rows(plan.architecture),
        *(("adapter", visible(adapter)) for adapter in adapters),
        *(_wrapped("warning", plan.deviation) if plan.deviation else ()),
        ("recipe", plan.recipe.name),
        ("target", f"{plan.target.name} ({plan.target.engine}, {plan.target.provider})"),
        *([("chip", _chip(plan.target.soc))] if plan.target.soc else []),
        ("weights", f"int{quant.bits}, {groups}, {quant.method}"),
        ("", f"embedding int{quant.embedding_bits}, head int{quant.head_bits}{expert_bits(quant)}"),
        *_kept(plan),
        ("", f"{at_most(plan)}{plan.bits_per_weight:.2f} bits per weight"),
        *images_rows(plan.architecture, quant, plan.target.engine),
        ("artifact", f"{at_most(plan)}{human_bytes(plan.artifact_bytes)}"),
        ("context", f"{plan.context} tokens (the model: {plan.architecture.context})"),
        ("memory", f"{human_bytes(plan.memory.total)} at that context"),
        ("", f"weights {human_bytes(plan.memory.weights)}"),
        ("", f"KV cache {human_bytes(plan.memory.kv_cache)}"),
        ("", f"engine and scratch {human_bytes(plan.memory.scratch)}"),
    ]
    if plan.largest_context is not None:
        rows.append(("fits", f"up to {plan.largest_context} tokens on this device"))
    if plan.decode_tokens_per_second is not None:
        rows.append(("decode", f"at most {plan.decode_tokens_per_second:.1f} tokens/s, by memory bandwidth"))
    if tokenizer is not None:
        rows += tokenizer_rows(tokenizer, _WIDTH - _LABEL)
    gate = plan.recipe.gate
    rows.append(("limits", f"mean KL: export error {gate.export_error_kl:g},"))
    rows.append(("", f"quantisation loss {gate.quantisation_loss_kl:g}, end to end {gate.end_to_end_kl:g}"))
    return table(rows)
