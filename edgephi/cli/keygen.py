"""`edgephi keygen`: make a key pair for signing bundles."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgephi.cli.argument_types import WrittenPath
from edgephi.cli.options import json_option
from edgephi.cli.show.say import say, say_document

if TYPE_CHECKING:
    from edgephi.flash.signing.keys import KeyKind


@click.command(no_args_is_help=True)
@click.argument("name", type=WrittenPath())
@click.option(
    "--model-signing",
    "for_model_signing",
    is_flag=True,
    help="Make a key for `edgephi sign --model-signing` (ECDSA P-256) instead of Ed25519.",
)
@json_option
def keygen(name: Path, *, for_model_signing: bool, as_json: bool) -> None:
    """Make a key pair for signing bundles.

    NAME.key is the secret half and has no passphrase: whoever reads it can sign. Its mode is 0600; keep it
    where you release from, and a copy offline. NAME.pub, the public half, goes to the devices, with
    `edgephi trust add ROOT NAME.pub`.
    """
    from edgephi.flash.signing.keys import write_key_pair
    from edgephi.store.trust.trusted_keys import read_key_file

    kind: KeyKind = "p256" if for_model_signing else "ed25519"
    files = write_key_pair(name, kind)
    fingerprint = None if for_model_signing else read_key_file(files.public).key.fingerprint
    if as_json:
        document = {
            "kind": kind,
            "secret": str(files.private),
            "public": str(files.public),
            "fingerprint": fingerprint,
        }
        say_document(document)
        return
    say(f"{files.private}: the secret key; whoever has it can sign")
    say(f"{files.public}: the public key, for those who check")
    if fingerprint is not None:
        say(f"fingerprint {fingerprint}")
