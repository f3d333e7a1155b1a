"""`edgephi sign`: vouch for a bundle."""

from pathlib import Path

import click

from edgephi.cli.argument_types import ReadPath
from edgephi.cli.completion import complete_bundle
from edgephi.cli.options import json_option
from edgephi.cli.show.say import say, say_document


@click.command(no_args_is_help=True)
@click.argument("bundle", type=ReadPath(), shell_complete=complete_bundle)
@click.option("--key", type=ReadPath(), metavar="KEY", help="Sign for devices with NAME.key.")
@click.option(
    "--model-signing",
    "model_signing_key",
    type=ReadPath(),
    metavar="KEY",
    help="Also sign as OpenSSF Model Signing does, for its tools, with this P-256 key.",
)
@json_option
def sign(bundle: Path, *, key: Path | None, model_signing_key: Path | None, as_json: bool) -> None:
    """Vouch for a bundle with your secret key.

    Every file is first held against the manifest, then the manifest is signed: bundle.dsse.json. Devices
    that trust the key take the bundle, see `edgephi trust`. Signatures of other keys stay beside it.
    """
    from edgephi.bundle.adapter_artifact import entries_in
    from edgephi.bundle.files import check_files
    from edgephi.bundle.manifest import MODEL_SIGNING_NAME, SIGNATURE_NAME, read_manifest
    from edgephi.cli.show.progress import step
    from edgephi.errors import UsageError
    from edgephi.flash.signing.keys import check_model_signing_key, read_signing_key
    from edgephi.flash.signing.sign import sign_bundle, sign_model

    if key is None and model_signing_key is None:
        raise UsageError("expected a key to sign with, found none", hint="add --key NAME.key")
    # Keys first: a wrong one must not show only after all files are read.
    secret = None if key is None else read_signing_key(key)
    if model_signing_key is not None:
        check_model_signing_key(model_signing_key)
    manifest = read_manifest(bundle)
    entries = entries_in(bundle, manifest)
    with step("check files", sum(entry.size for entry in entries)) as done:
        check_files(bundle, manifest, progress=done, entries=entries)
    written = []
    fingerprint = None
    if model_signing_key is not None:
        with step("sign every file", 0):
            sign_model(bundle, model_signing_key)
        written.append(MODEL_SIGNING_NAME)
    if secret is not None:
        fingerprint = sign_bundle(bundle, secret)
        written.append(SIGNATURE_NAME)
    if as_json:
        document = {"bundle": str(bundle), "written": written, "fingerprint": fingerprint}
        say_document(document)
        return
    say(f"{manifest.name}, release {manifest.sequence}, is signed: {', '.join(written)}")
    if fingerprint is not None:
        say(f"by key {fingerprint}")
