"""`edgephi plan`: what a build would make and need, without downloading or writing anything big."""

import json
from typing import TYPE_CHECKING, Any

import click

from edgephi.cli.options import (
    context_option,
    json_option,
    model_argument,
    recipe_option,
    revision_option,
    target_option,
)

if TYPE_CHECKING:
    from edgephi.plan import Plan


@click.command(no_args_is_help=True)
@model_argument
@target_option
@recipe_option
@context_option
@revision_option
@json_option
def plan(
    model: str,
    *,
    target_name: str,
    recipe_name: str | None,
    context: int | None,
    revision: str | None,
    as_json: bool,
) -> None:
    """Print all that a build would do, and write nothing.

    MODEL is what `edgephi build` takes. Models with a recipe need no network. Exit code 3 means that it
    cannot fit, with the reason.
    """
    from edgephi.build import plan_model
    from edgephi.recipe import read_recipe, recipe_for
    from edgephi.target import read_target

    recipe = read_recipe(recipe_name) if recipe_name else recipe_for(model)
    made = plan_model(model, recipe, read_target(target_name), revision=revision, context=context)
    click.echo(json.dumps(_document(made), indent=2) if as_json else _text(made))


def _document(plan: "Plan") -> dict[str, Any]:
    quant = plan.recipe.quant
    return {
        "model": plan.model,
        "recipe": plan.recipe.name,
        "target": plan.target.name,
        "engine": plan.target.engine,
        "provider": plan.target.provider,
        "parameters": plan.architecture.parameters,
        "quant": {
            "method": quant.method,
            "bits": quant.bits,
            "group_size": quant.group_size,
            "symmetric": quant.symmetric,
            "embedding_bits": quant.embedding_bits,
            "head_bits": quant.head_bits,
            "bits_per_weight": plan.bits_per_weight,
        },
        "context": plan.context,
        "model_context": plan.architecture.context,
        "largest_context": plan.largest_context,
        "artifact_bytes": plan.artifact_bytes,
        "memory_bytes": {
            "weights": plan.memory.weights,
            "kv_cache": plan.memory.kv_cache,
            "scratch": plan.memory.scratch,
            "total": plan.memory.total,
        },
        "decode_tokens_per_second_limit": plan.decode_tokens_per_second,
    }


def _text(plan: "Plan") -> str:
    from edgephi.cli.sizes import human_bytes, human_count
    from edgephi.cli.table import table

    quant = plan.recipe.quant
    symmetry = "symmetric" if quant.symmetric else "asymmetric"
    rows = [
        ("model", f"{plan.model} ({human_count(plan.architecture.parameters)} parameters)"),
        ("recipe", plan.recipe.name),
        ("target", f"{plan.target.name} ({plan.target.engine}, {plan.target.provider})"),
        ("weights", f"int{quant.bits}, groups of {quant.group_size}, {symmetry}, {quant.method}"),
        ("", f"embedding int{quant.embedding_bits}, head int{quant.head_bits}"),
        ("", f"{plan.bits_per_weight:.2f} bits per weight"),
        ("artifact", human_bytes(plan.artifact_bytes)),
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
    gate = plan.recipe.gate
    rows.append(("limits", f"mean KL: export error {gate.export_error_kl:g},"))
    rows.append(("", f"quantisation loss {gate.quantisation_loss_kl:g}, end to end {gate.end_to_end_kl:g}"))
    return table(rows)
