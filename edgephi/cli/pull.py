"""`edgephi pull`: a checkpoint into the local cache."""

import json

import click

from edgephi.cli.options import json_option, model_argument, revision_option


@click.command(no_args_is_help=True)
@model_argument
@revision_option
@json_option
def pull(model: str, *, revision: str | None, as_json: bool) -> None:
    """Download a model into the local cache: pinned, resumed, checked.

    MODEL is a recipe's name or a hub id (owner/name). HF_TOKEN opens gated models, HF_HUB_OFFLINE=1 stays
    with what the cache has. Prints the folder.
    """
    from edgephi.build import find_checkpoint
    from edgephi.recipe import recipe_for

    located = find_checkpoint(model, recipe_for(model), revision, progress=True)
    document = {"id": located.id, "revision": located.revision, "folder": str(located.folder)}
    click.echo(json.dumps(document, indent=2) if as_json else str(located.folder))
