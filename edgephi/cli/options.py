"""Arguments and options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgephi.bundle.image_tokens import MOST_CROPS
from edgephi.cli.argument_types import NAME, ReadPath
from edgephi.cli.completion import (
    complete_bundle,
    complete_model,
    complete_recipe,
    complete_soc,
    complete_target,
)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

model_argument: Decorator = click.argument("model", type=NAME, shell_complete=complete_model)
roots_argument: Decorator = click.argument("roots", type=NAME, nargs=-1, required=True, metavar="ROOT...")


def in_store(path: Path) -> bool:
    """Whether a bundle's path may lie in a store: costs a device without one no import."""
    return path.is_symlink() or any(
        (folder / "gens").is_dir() for folder in (path, *path.absolute().parents[:2])
    )


def opened(path: Path) -> Path:
    """The bundle that a path means: in a store, the active one, after what a power cut left was put right."""
    if not in_store(path):
        return path
    from edgephi.store.opening import open_bundle

    return open_bundle(path)


def _opened(context: click.Context, _parameter: click.Parameter, path: Path) -> Path:
    if context.resilient_parsing:  # a Tab changes nothing
        return path
    if not in_store(path):
        from edgephi.cli.not_a_bundle import refuse_model

        takes_prompt = any(each.name == "prompt" for each in context.command.params)
        refuse_model(path, context.info_name or "run", *(["your question"] if takes_prompt else []))
    return opened(path)


bundle_argument: Decorator = click.argument(
    "bundle", type=ReadPath(), callback=_opened, shell_complete=complete_bundle
)

target_option: Decorator = click.option(
    "-t",
    "--target",
    "target_name",
    type=NAME,
    shell_complete=complete_target,
    required=True,
    metavar="T",
    help="Target device: see `edgephi targets`; `auto` is the best one for this machine.",
)

recipe_option: Decorator = click.option(
    "--recipe",
    "recipe_name",
    type=NAME,
    shell_complete=complete_recipe,
    metavar="R",
    help="Recipe, by name or TOML file. [default: the model's own, else `default`]",
)

adapter_option: Decorator = click.option(
    "--adapter",
    "adapter_names",
    type=NAME,
    multiple=True,
    metavar="ADAPTER",
    help="LoRA adapter to merge into the model: a folder or hub id, and behind it :REVISION of the hub and "
    "@FACTOR for another strength; may be given again.",
)

quality_option: Decorator = click.option(
    "--quality",
    type=click.Choice(["small", "default", "best"]),
    default="default",
    show_default=True,
    help="As small as is worth having, as the recipe says, or calibrated with some of the weights at more "
    "bits.",
)

method_option: Decorator = click.option(
    "--method",
    type=click.Choice(["calibrated", "weighted", "search", "rtn"]),
    help="How to choose codes, instead of the recipe's way: by how large the inputs of each matrix are on a "
    "text, the same with codes that make up for each other's errors, by the weights alone, or by rounding to "
    "nearest.",
)

portable_option: Decorator = click.option(
    "--portable",
    is_flag=True,
    help="Store the same codes for every engine, instead of in the best format that this one has.",
)

group_size_option: Decorator = click.option(
    "--group-size",
    type=click.Choice(["32", "64", "128"]),
    callback=lambda _context, _option, value: None if value is None else int(value),
    help="Weights that share a scale, instead of the recipe's number; K-quants have their own.",
)

wrong_routing_option: Decorator = click.option(
    "--accept-wrong-routing",
    is_flag=True,
    help="Go on where the target's engine weighs a model's experts otherwise than the model does; the "
    "certificate says how far its answers are.",
)

soc_option: Decorator = click.option(
    "--soc",
    type=NAME,
    shell_complete=complete_soc,
    metavar="NAME",
    help="Chip to compile for, with --target qnn: see `edgephi targets socs`. [default: the target's]",
)

revision_option: Decorator = click.option(
    "--revision",
    type=NAME,
    metavar="REV",
    help="Branch, tag or commit of a model of the hub. [default: the recipe's]",
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
    type=NAME,
    metavar="P",
    help="Run on another provider of the bundle's engine than its own, such as cpu.",
)

switched_adapter_option: Decorator = click.option(
    "--adapter",
    type=NAME,
    metavar="NAME",
    help="Answer with this adapter of the bundle's, or with FOLDER:NAME, or FOLDER for its first one, of a "
    "folder which `edgephi adapter build` made for it.",
)

image_option: Decorator = click.option(
    "--image",
    "images",
    type=ReadPath(),
    multiple=True,
    metavar="FILE",
    help="An image that the prompt is about, for a model that sees: JPEG, PNG, WebP, GIF or BMP; may be "
    "given again.",
)

crops_option: Decorator = click.option(
    "--crops",
    type=click.IntRange(1, MOST_CROPS),
    metavar="N",
    help="Cut each image into N tiles at most: fewer show less of it, and take fewer tokens. [default: the "
    "model's number]",
)

json_option: Decorator = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document and nothing else."
)


def answer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How an answer is written: --max-tokens, --temperature, --top-p, --seed and --system, in this order."""
    for option in (_system_option, _seed_option, _top_p_option, _temperature_option, _max_tokens_option):
        command = option(command)
    return command


_max_tokens_option: Decorator = click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="Stop each answer after N tokens. [default: 512, or what the context leaves]",
)

_temperature_option: Decorator = click.option(
    "--temperature",
    type=click.FloatRange(0, 100),
    default=0.0,
    metavar="T",
    show_default=True,
    help="0 takes the most likely token each time; more makes answers more varied.",
)

_top_p_option: Decorator = click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    metavar="P",
    show_default=True,
    help="With a temperature: draw only from the most likely tokens that make up the share P.",
)

_seed_option: Decorator = click.option(
    "--seed",
    type=click.IntRange(0, (1 << 31) - 1),
    metavar="N",
    help="With a temperature: draw the same tokens again.",
)

_system_option: Decorator = click.option(
    "--system",
    metavar="TEXT",
    help="System message: who the model is and how it answers; @FILE reads it, and an empty one is none. "
    "[default: the bundle's]",
)

insecure_option: Decorator = click.option(
    "--insecure",
    is_flag=True,
    help="Speak plain HTTP to the registry, passwords too. Not needed for one on this machine.",
)

host_option: Decorator = click.option(
    "--host",
    type=NAME,
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Listen on this address.",
)

served_system_option: Decorator = click.option(
    "--system",
    metavar="TEXT",
    help="System message of requests that bring none, computed ahead; @FILE is read at each start. "
    "[default: the bundle's]",
)


boxes_option: Decorator = click.option(
    "--boxes",
    "boxes_file",
    type=ReadPath(),
    metavar="FILE",
    help="TOML file with names of boxes and of groups, which may then stand for ssh://…; `all` is every box.",
)


def parallel_option(what: str) -> Decorator:
    """How many boxes at the same time; `what` says what is done with them."""
    return click.option(
        "--parallel",
        type=click.IntRange(min=1),
        default=4,
        show_default=True,
        metavar="N",
        help=f"Boxes to {what} over ssh at the same time.",
    )


def port_option(*, may_be_free: bool) -> Decorator:
    """The port to listen on; `may_be_free`: 0 stands for any free one."""
    return click.option(
        "--port",
        type=click.IntRange(0 if may_be_free else 1, 65535),
        default=8080,
        show_default=True,
        metavar="N",
        help=f"Listen on this port{'; 0 takes a free one' if may_be_free else ''}.",
    )


def api_key_file_option(otherwise: str) -> Decorator:
    """The file with the key of an API; `otherwise` says in a few words what holds without one."""
    return click.option(
        "--api-key-file",
        type=ReadPath(),
        metavar="FILE",
        help=f"The key that requests must bring. [default: {otherwise}]",
    )


ollama_option = click.option(
    "--ollama",
    is_flag=True,
    help="Speak Ollama's API too, under /api. Its clients look for it on --port 11434.",
)
"""`--ollama`, of what serves a bundle."""
