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
@insecure_option
@json_option
def push(bundle: Path, reference: str, *, insecure: bool, as_json: bool) -> None:
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

    pushed = push_bundle(bundle, read_reference(reference), transfer, insecure=insecure)
    say(f"sent {human_bytes(pushed.sent_bytes)}, {human_bytes(pushed.reused_bytes)} were there", err=True)
    document = {
        "reference": str(pushed.reference),
        "digest": pushed.digest,
        "sent_bytes": pushed.sent_bytes,
        "reused_bytes": pushed.reused_bytes,
    }
    name = f"{pushed.reference.registry}/{pushed.reference.name}@{pushed.digest}"
    if as_json:
        say_document(document)
    else:
        say_exactly(name)
