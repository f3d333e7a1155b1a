"""`edgephi inspect`: show what a bundle is, what it needs and how good it is."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgephi.bundle.adapter_artifact import check_whole
from edgephi.bundle.chunks import chunks_of
from edgephi.bundle.manifest import WHEELS_FOLDER, Manifest, encode_manifest, read_manifest
from edgephi.bundle.probe import PictureProbe, Probe
from edgephi.bundle.quantisation import Quantisation, encode_quantisation, read_quantisation
from edgephi.cli.argument_types import WrittenPath
from edgephi.cli.options import bundle_argument
from edgephi.cli.output_file import write_output
from edgephi.cli.show.certificate import certificate_table
from edgephi.cli.show.model.chat_form import chat_form_line
from edgephi.cli.show.model.images import images_line
from edgephi.cli.show.quantisation import WORST, tensors_table, unknown_errors
from edgephi.cli.show.say import say, say_json
from edgephi.cli.show.sizes import human_bytes
from edgephi.cli.show.table import table
from edgephi.cli.show.wheels import wheels_command, wheels_summary
from edgephi.commands import shell_command
from edgephi.engines.facts.groups import groups_in_words
from edgephi.errors import UsageError
from edgephi.guards.visible import visible

if TYPE_CHECKING:
    from edgephi.cli.show.quantisation import Order

_WIDTH = 80
_LABEL = 12


@click.command(no_args_is_help=True)
@bundle_argument
@click.option(
    "--tensors",
    "of_tensors",
    is_flag=True,
    help="Show the quantisation errors of its matrices, the worst first, instead of the manifest.",
)
@click.option(
    "--sort",
    "order",
    type=click.Choice(["output", "weighted", "plain"]),
    help="With --tensors: the error that makes one worse. [default: output, where inputs were measured]",
)
@click.option("--all", "of_all", is_flag=True, help=f"With --tensors: all of them, not the worst {WORST}.")
@click.option(
    "--html",
    "page",
    type=WrittenPath(dir_okay=False),
    metavar="FILE",
    help="Write a page that plots these errors by layer, too: one file that needs nothing else.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was asked for as it is, one JSON document.")
def inspect(
    bundle: Path, *, of_tensors: bool, order: "Order | None", of_all: bool, page: Path | None, as_json: bool
) -> None:
    """Show what a bundle is, what it needs and how good it is.

    Reads the manifest only, and with --tensors or --html the file that has the errors of its tensors;
    `edgephi verify` holds all files against the manifest.
    """
    if (order or of_all) and not of_tensors:
        raise UsageError(
            f"{'--sort' if order else '--all'}: expected --tensors with it", hint="add --tensors"
        )
    if page is not None and not page.absolute().parent.is_dir():
        raise UsageError(
            f"--html {page}: expected a file in a folder that exists",
            hint=shell_command("mkdir", "-p", page.parent),
        )
    manifest = read_manifest(bundle)
    quantisation = _quantisation(bundle, manifest) if of_tensors or page is not None else None
    if page is not None and quantisation is not None:
        from edgephi.cli.pages.quantisation_page import quantisation_page

        write_output(page, quantisation_page(quantisation, manifest))
    if quantisation is not None and of_tensors:
        if as_json:
            say_json(encode_quantisation(quantisation).decode(), nl=False)
        else:
            say(tensors_table(quantisation, manifest, order=order, most=None if of_all else WORST))
    elif as_json:
        say_json(encode_manifest(manifest).decode(), nl=False)
    else:
        say(_summary(bundle, manifest))


def _quantisation(bundle: Path, manifest: Manifest) -> Quantisation:
    """What quantising did to a bundle's tensors. Raises NotSupportedError when it does not say.

    Raises BadBundleError for adapters without it: the file that says it is the base's.
    """
    check_whole(bundle, manifest)
    quantisation = read_quantisation(bundle, manifest)
    if quantisation is None:
        raise unknown_errors(manifest)
    return quantisation


_LONGEST_TEXT = 200
_WHERE_THERE = ("warning", "merged", "adapters", "base", "images", "picture", "system")
"""What most bundles do not have."""


def _summary(bundle: Path, manifest: Manifest) -> str:
    """The manifest in at most 80 columns, but for what is to be copied to a shell."""
    model, target, quant, requires = manifest.model, manifest.target, manifest.quant, manifest.requires
    engines = ", ".join(f"{name} {allowed}" for name, allowed in requires.engines.items())
    certificate, base = manifest.certificate, manifest.base
    active = "" if model.active_parameters is None else f", {model.active_parameters:,} of them active"
    measured = f", {certificate.tokens:,} tokens of {certificate.text!r}" if certificate.tokens else ""
    facts = {
        "bundle": f"{manifest.name}, release {manifest.sequence} of {manifest.created}",
        "model": f"{model.id} at {model.revision} ({model.variant})",
        "": f"{model.parameters:,} parameters{active}, trained for {model.context:,} tokens",
        "warning": visible(manifest.deviation),
        "merged": "; ".join(adapter.described for adapter in model.adapters),
        "adapters": "; ".join(adapter.described for adapter in manifest.adapters),
        "base": "" if base is None else f"{base.name}, release {base.sequence}, {base.sha256[:12]}",
        "target": f"{target.name}: {target.engine} on {target.provider}, {', '.join(target.arch)}",
        "images": images_line(model.images, target.engine),
        "weights": f"{quant.bits_per_weight:.2f} bits per weight: {_scheme(manifest)}",
        "context": f"{manifest.limits.context:,} tokens, prompt and answer together",
        "needs": f"{human_bytes(requires.memory_bytes)} memory at the full context, "
        f"{human_bytes(requires.disk_bytes)} disk, {engines}",
        "chat": chat_form_line(manifest.chat.source),
        "system": shortened(visible(manifest.chat.system)),
        "stop tokens": ", ".join(map(str, manifest.chat.stop_token_ids)),
        "built by": f"edgephi {manifest.provenance.edgephi}: {manifest.provenance.command}",
        "quality": f"verify level {certificate.level}{measured}",
        "probe": _probe(manifest.probe),
        "picture": _picture_probe(manifest.picture_probe),
        "chunks": f"{sum(len(chunks_of(entry)) for entry in manifest.files):,}, and a device is sent "
        "only those that it has not",
    }
    lines = [_fact(label, value) for label, value in facts.items() if value or label not in _WHERE_THERE]
    files = [
        (entry.path, human_bytes(entry.size), entry.sha256[:12])
        for entry in manifest.files
        if not entry.path.startswith(f"{WHEELS_FOLDER}/")  # these have a line for each platform
    ]
    listing = table(files, ("file", "size", "sha256"), right=(1,))
    wheels = [
        f"{wheels_summary(manifest, wheelhouse)}\n{wheels_command(bundle, wheelhouse)}"
        for wheelhouse in manifest.wheels
    ]
    tables = [certificate_table(certificate, manifest)]
    tables += [
        f"with {adapter.name}:\n{certificate_table(adapter.certificate, manifest)}"
        for adapter in manifest.adapters
    ]
    return "\n\n".join(["\n".join(lines), *tables, listing, *wheels])


def _probe(probe: Probe | None) -> str:
    if probe is None:
        return "none: built without asking the engine"
    speed = probe.minimum_tokens_per_second
    at_speed = f", at {speed:g} tokens/s or more" if speed else ""
    begins = f"must begin with {probe.expected!r}" if probe.expected else "may be anything"
    return f"the answer to {probe.prompt!r} {begins}{at_speed}"


def _picture_probe(probe: PictureProbe | None) -> str:
    if probe is None:
        return ""
    begins = f"must begin with {probe.expected!r}" if probe.expected else "may be anything"
    return f"the answer to {probe.prompt!r} about {probe.picture} {begins}"


def _scheme(manifest: Manifest) -> str:
    quant = manifest.quant
    groups = groups_in_words(
        quant.group_size, symmetric=quant.symmetric, formats=quant.formats, engine=manifest.target.engine
    )
    kept = f"{len(quant.kept)} of the matrices at more bits; " if quant.kept else ""
    return (
        f"int{quant.bits} in {groups}, by {quant.method}; {kept}"
        f"embedding {quant.embedding_bits} bit, head {quant.head_bits} bit"
    )


def shortened(text: str) -> str:
    """The text, or so much of it as three lines hold."""
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"


def _fact(label: str, value: str) -> str:
    """A label in its own column, and its value wrapped beside it."""
    indent = " " * _LABEL
    return textwrap.fill(
        value, _WIDTH, initial_indent=f"{label:<{_LABEL}}", subsequent_indent=indent, break_on_hyphens=False
    )
