"""`edgephi pull`: a checkpoint into the local cache, or a bundle out of a registry."""

from pathlib import Path

import click

from edgephi.cli.argument_types import WrittenPath
from edgephi.cli.options import insecure_option, json_option, model_argument, revision_option
from edgephi.cli.show.say import say, say_document, say_exactly
from edgephi.commands import edgephi_command
from edgephi.errors import UsageError
from edgephi.flash.oci.reference import SCHEME, is_reference


@click.command(no_args_is_help=True)
@model_argument
@revision_option
@click.option(
    "-o",
    "--output",
    type=WrittenPath(),
    metavar="DIR",
    help="Folder for a bundle of a registry; it must not exist yet.",
)
@insecure_option
@json_option
def pull(model: str, *, revision: str | None, output: Path | None, insecure: bool, as_json: bool) -> None:
    """Download a model into the cache, or a bundle into a folder.

    MODEL is a recipe's name or a hub id (owner/name). HF_TOKEN opens gated models, HF_HUB_OFFLINE=1 stays
    with what the cache has. Prints the folder.

    With oci://REGISTRY/NAME:TAG it is a bundle that `edgephi push` wrote: every file is held against its
    digest, and after a cut the same command goes on. Credentials are those of `docker login`, or
    EDGEPHI_REGISTRY_USER and EDGEPHI_REGISTRY_PASSWORD.
    """
    if is_reference(model):
        document = _pull_bundle(model, revision, output, insecure=insecure)
    else:
        document = _pull_checkpoint(model, revision, output, insecure=insecure)
    if as_json:
        say_document(document)
    else:
        say_exactly(str(document["folder"]))


def _pull_checkpoint(
    model: str, revision: str | None, output: Path | None, *, insecure: bool
) -> dict[str, str | int]:
    from edgephi.build.build import find_checkpoint
    from edgephi.declared.recipe import recipe_for

    if output is not None or insecure:
        raise UsageError(
            f"{'--output' if output is not None else '--insecure'}: expected with a bundle of a registry, "
            f"found {model!r}",
            hint=f"write {SCHEME}REGISTRY/NAME:TAG; a checkpoint goes into the local cache",
        )
    located = find_checkpoint(model, recipe_for(model), revision, progress=True)
    return {"id": located.id, "revision": located.revision, "folder": str(located.folder)}


def _pull_bundle(
    text: str, revision: str | None, output: Path | None, *, insecure: bool
) -> dict[str, str | int]:
    from edgephi.cli.show.progress import transfer
    from edgephi.cli.show.sizes import human_bytes
    from edgephi.flash.oci.pull import pull_bundle
    from edgephi.flash.oci.reference import read_reference

    reference = read_reference(text)
    if output is None or revision is not None:
        raise UsageError(
            f"{text}: expected {'-o with the folder of the bundle' if output is None else 'no --revision'}",
            hint=edgephi_command("pull", "oci://REGISTRY/NAME:TAG", "-o", "DIR"),
        )
    pulled = pull_bundle(reference, output, transfer, insecure=insecure)
    say(
        f"received {human_bytes(pulled.received_bytes)}, {human_bytes(pulled.kept_bytes)} were here", err=True
    )
    return {
        "reference": str(reference),
        "digest": pulled.digest,
        "folder": str(output),
        "received_bytes": pulled.received_bytes,
        "kept_bytes": pulled.kept_bytes,
    }
