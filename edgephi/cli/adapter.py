"""`edgephi adapter`: adapters that a device switches on and off beside one bundle."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgephi.cli.argument_types import NAME, ReadPath, WrittenPath
from edgephi.cli.completion import complete_bundle
from edgephi.cli.options import json_option
from edgephi.cli.show.say import say, say_document
from edgephi.cli.suggestions import SuggestingGroup
from edgephi.commands import edgephi_command
from edgephi.errors import UsageError

if TYPE_CHECKING:
    from edgephi.build.switched_adapters.request import NamedAdapter
    from edgephi.bundle.certificate import VerifyLevel


@click.group(cls=SuggestingGroup, no_args_is_help=True)
def adapter() -> None:
    """Make LoRA adapters that a device switches on and off.

    Many fine-tunes of one model then need its weights once. To have one in the weights themselves, merge it:
    `edgephi build MODEL --adapter ADAPTER`.
    """


@adapter.command(no_args_is_help=True)
@click.argument("base", type=ReadPath(), shell_complete=complete_bundle)
@click.argument("adapters", type=NAME, nargs=-1, required=True, metavar="ADAPTER...")
@click.option(
    "-o", "--output", type=WrittenPath(), required=True, metavar="DIR", help="Folder to make; must not exist."
)
@click.option(
    "--against",
    "model",
    type=NAME,
    metavar="MODEL",
    help="The checkpoint that BASE was made from. [default: what BASE names of the hub, else what an adapter "
    "names]",
)
@click.option(
    "--verify",
    type=click.Choice(["quick", "full", "off"]),
    default="quick",
    show_default=True,
    help="Measure BASE with each adapter on little text, on enough to judge by, or not at all.",
)
@click.option(
    "--sequence",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of this release; devices refuse to go back to a lower one. [default: that of BASE]",
)
@json_option
def build(
    base: Path,
    adapters: tuple[str, ...],
    *,
    output: Path,
    model: str | None,
    verify: "VerifyLevel",
    sequence: int | None,
    as_json: bool,
) -> None:
    """Make LoRA adapters for the bundle BASE: an artifact that goes beside it.

    ADAPTER is a folder that PEFT saved or a hub id, @FACTOR behind it for another strength, and NAME= before
    it for the name to switch it on by, which is else the folder's. The artifact holds all that are given, and
    none of the base's files. Flash it where BASE is, or use it beside BASE: `--adapter DIR`.
    """
    from edgephi.build.switched_adapters.build_adapters import build_adapters
    from edgephi.build.switched_adapters.find_model import find_model
    from edgephi.build.switched_adapters.request import AdaptersRequest
    from edgephi.bundle.manifest import read_manifest
    from edgephi.bundle.unfinished import check_destination
    from edgephi.cli.show.progress import step
    from edgephi.records import write_record

    check_destination(output)
    manifest = read_manifest(base)
    named = _named(adapters)
    request = AdaptersRequest(base, named, output, verify, sequence)
    located = find_model(manifest, base, model, [each.adapter for each in named])
    built = build_adapters(request, located, step)
    if as_json:
        document = {
            "artifact": str(built.folder),
            "bytes": built.own_bytes,
            "answers": built.answers,
            "manifest": write_record(built.manifest),
        }
        say_document(document)
        return
    from edgephi.cli.show.built import built_adapters_summary

    say(built_adapters_summary(built))
    say(f"\n{edgephi_command('run', base, '--adapter', output, 'your question')}")


def _named(texts: tuple[str, ...]) -> "tuple[NamedAdapter, ...]":
    """The adapters that are asked for, each with its name."""
    from edgephi.build.switched_adapters.request import NamedAdapter
    from edgephi.bundle.switched_adapter import is_adapter_name
    from edgephi.checkpoint.adapter.locate_adapter import locate_adapters

    named: dict[str, NamedAdapter] = {}
    for text in texts:
        name, equals, asked = text.partition("=")
        if not equals or Path(text).is_dir():
            name, asked = "", text
        elif not name:
            raise UsageError(
                f"{text}: expected a name before the =, found none",
                hint="give NAME=ADAPTER, or ADAPTER alone",
            )
        (found,) = locate_adapters([asked], progress=True)
        name = name or found.located.id.rpartition("/")[2]
        if not is_adapter_name(name):
            raise UsageError(
                f"{text}: expected a name of at most 64 letters, digits and . _ -, which any file may have, "
                f"found {name[:100]!r}",
                hint="give a name before it: NAME=ADAPTER",
            )
        if name.casefold() in named:
            raise UsageError(
                f"expected names of their own, found {name} twice", hint="give a name before it: NAME=ADAPTER"
            )
        named[name.casefold()] = NamedAdapter(name, found)
    return tuple(named.values())
