"""`edgephi push`: a bundle into a registry of container images."""

from pathlib import Path

import click

from edgephi.cli.argument_types import NAME, ReadPath
from edgephi.cli.completion import complete_bundle
from edgephi.cli.options import insecure_option, json_option
from edgephi.cli.show.say import say, say_document, say_exactly


@click.command(no_args_is_help=True)
@click.argument("bundle", type=ReadPath(), shell_complete=complete_bundle)
@click.argument("reference", type=NAME, metavar="REGISTRY/NAME:TAG")
@click.option(
    "--sbom",
    "bill_file",
    type=ReadPath(dir_okay=False),
    metavar="FILE",
    help="Put the bill of materials that `edgephi sbom -o FILE` made beside it, with FILE.dsse.json.",
)
@insecure_option
@json_option
def push(bundle: Path, reference: str, *, bill_file: Path | None, insecure: bool, as_json: bool) -> None:
    """Put a bundle into a registry, where devices can fetch it.

    It becomes an OCI artifact by the CNCF ModelPack specification, one layer a file, signatures included.
    What the registry has already is not sent. Credentials are those of `docker login`, or
    EDGEPHI_REGISTRY_USER and EDGEPHI_REGISTRY_PASSWORD. Prints the artifact's name by its digest, which
    nobody can move to another bundle.
    """
    from edgephi.cli.show.progress import transfer
    from edgephi.cli.show.sizes import human_bytes
    from edgephi.flash.oci.push import push_bundle
    from edgephi.flash.oci.reference import read_reference

    where = read_reference(reference)
    bill = None
    if bill_file is not None:
        from edgephi.bundle.manifest import read_manifest
        from edgephi.flash.bill_of_materials.written import read_bill

        read_manifest(bundle)  # says what is wrong with a folder that is none
        bill = read_bill(bill_file, bundle)
        if bill.envelope is None:
            say("note: the bill of materials is not signed", err=True)
    pushed = push_bundle(bundle, where, transfer, insecure=insecure, bill=bill)
    say(f"sent {human_bytes(pushed.sent_bytes)}, {human_bytes(pushed.reused_bytes)} were there", err=True)
    document = {
        "reference": str(pushed.reference),
        "digest": pushed.digest,
        "sent_bytes": pushed.sent_bytes,
        "reused_bytes": pushed.reused_bytes,
        "sbom": pushed.bill,
        "sbom_signature": pushed.signature,
    }
    name = f"{pushed.reference.registry}/{pushed.reference.name}@{pushed.digest}"
    if as_json:
        say_document(document)
    else:
        say_exactly(name)
