"""`edgephi sbom`: what a bundle consists of, for the tools that read bills of materials."""

from pathlib import Path

import click

from edgephi.cli.argument_types import ReadPath, WrittenPath
from edgephi.cli.options import bundle_argument, json_option
from edgephi.cli.output_file import write_output
from edgephi.cli.show.say import say, say_document, say_json
from edgephi.errors import UsageError


@click.command(no_args_is_help=True)
@bundle_argument
@click.option(
    "-o",
    "--output",
    type=WrittenPath(dir_okay=False),
    metavar="FILE",
    help="Write it there, such as bundle.cdx.json, instead of printing it.",
)
@click.option(
    "--key",
    type=ReadPath(),
    metavar="KEY",
    help="With -o: sign it with NAME.key too, as bundles are signed, into FILE.dsse.json.",
)
@json_option
def sbom(bundle: Path, *, output: Path | None, key: Path | None, as_json: bool) -> None:
    """Make the bill of materials of a bundle, by CycloneDX.

    A document of CycloneDX 1.6: the model and where it is from, how it was quantised, its certificate as a
    model card, every file with its hash, and wheels with their versions and licences. The same bundle always
    makes the same bytes. `edgephi push --sbom FILE` puts it beside the bundle in a registry.
    """
    from edgephi.flash.bill_of_materials.document import bill_of_materials
    from edgephi.flash.bill_of_materials.written import BILL_TYPE, signature_file

    if key is not None and output is None:
        raise UsageError("--key: expected -o FILE with it, found none", hint="add -o FILE")
    if output is None:
        say_json(bill_of_materials(bundle).decode(), nl=False)
        return
    written = {output: b""}
    fingerprint = None
    if key is None:
        written[output] = bill_of_materials(bundle)
    else:
        from edgephi.flash.signing.keys import public_half, read_signing_key
        from edgephi.flash.signing.sign import signed_envelope

        secret = read_signing_key(key)  # a wrong one must not show only after files were written
        written[output] = bill_of_materials(bundle)
        signature = signature_file(output)
        written[signature] = signed_envelope(
            signature, written[output], secret, kind=BILL_TYPE, replaces_others=True
        )
        fingerprint = public_half(secret).fingerprint
    for file, data in written.items():
        write_output(file, data.decode())
    if as_json:
        say_document({"bundle": str(bundle), "written": list(map(str, written)), "fingerprint": fingerprint})
        return
    say(f"bill of materials: {', '.join(map(str, written))}")
    if fingerprint is not None:
        say(f"signed by key {fingerprint}")
