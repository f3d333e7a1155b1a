"""Options that several commands share."""

from collections.abc import Callable
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

model_argument: Decorator = click.argument("model")

target_option: Decorator = click.option(
    "-t",
    "--target",
    "target_name",
    required=True,
    metavar="T",
    help="Target device: see `edgephi targets`; `auto` is the best one for this machine.",
)

recipe_option: Decorator = click.option(
    "--recipe",
    "recipe_name",
    metavar="R",
    help="Recipe, by name or TOML file. [default: the model's own, else `default`]",
)

revision_option: Decorator = click.option(
    "--revision", metavar="REV", help="Branch, tag or commit of a model of the hub. [default: the recipe's]"
)

context_option: Decorator = click.option(
    "--context",
    type=click.IntRange(min=2),
    metavar="N",
    help="Tokens to serve, prompt and answer together. [default: the target's limit]",
)

device_context_option: Decorator = click.option(
    "--context",
    type=click.IntRange(min=2),
    metavar="N",
    help="Tokens of prompt and answer together. [default: all that the bundle serves and memory allows]",
)

provider_option: Decorator = click.option(
    "--provider",
    metavar="P",
    help="Run on another provider of the bundle's engine than its own, such as cpu.",
)

json_option: Decorator = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document and nothing else."
)
