"""`edgephi import`: what somebody else has compiled becomes a bundle."""

from pathlib import Path

import click

from edgephi.cli.argument_types import NAME, ReadPath, WrittenPath
from edgephi.cli.options import json_option
from edgephi.cli.show.say import say, say_document
from edgephi.cli.suggestions import SuggestingGroup
from edgephi.commands import edgephi_command


@click.group(cls=SuggestingGroup, name="import", no_args_is_help=True)
def import_() -> None:
    """Make a bundle of what somebody else has compiled."""


@import_.command(no_args_is_help=True)
@click.argument("source", metavar="DIR", type=ReadPath())
@click.option(
    "-o",
    "--output",
    required=True,
    type=WrittenPath(),
    metavar="BUNDLE",
    help="Folder to write the bundle to; must not exist.",
)
@click.option("--name", type=NAME, metavar="NAME", help="The model's name. [default: that of DIR]")
@click.option(
    "--soc",
    type=NAME,
    metavar="NAME",
    help="The chip, where the binaries do not name it: see `edgephi targets socs`.",
)
@click.option(
    "--sequence",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Number of this release; devices refuse to go back to a lower one.",
)
@json_option
def qnn(
    source: Path, *, output: Path, name: str | None, soc: str | None, sequence: int, as_json: bool
) -> None:
    """Wrap ready context binaries for Qualcomm's NPU into a bundle.

    DIR holds the binaries, their EPContext wrappers, the embedding, the table of angles, the model's
    config.json and tokenizer, and a description: see docs/targets/qnn.md. Versions, chip, shapes and files
    are checked, and where the graphs are there too, the bundle answers a question in the emulator.
    """
    from edgephi.build.qnn_import.bundle import import_qnn
    from edgephi.bundle.unfinished import check_destination
    from edgephi.cli.show.progress import step
    from edgephi.cli.show.sizes import human_bytes
    from edgephi.records import write_record

    check_destination(output)
    imported = import_qnn(source, output, name=name, soc=soc, sequence=sequence, step=step)
    manifest = imported.manifest
    if as_json:
        document = {
            "bundle": str(output),
            "manifest": write_record(manifest),
            "unproven": imported.unproven or None,
        }
        say_document(document)
        return
    say(
        f"{manifest.name}: {human_bytes(manifest.requires.disk_bytes)}, {manifest.provenance.exporter}, "
        f"context {manifest.limits.context}"
    )
    if imported.unproven:
        say(f"not run: {imported.unproven}", err=True)
    say(f"\n{edgephi_command('run', output, 'your question')}")
