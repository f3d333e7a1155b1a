"""`edgephi verify`: whether a bundle is what its manifest says, and as good."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgephi.cli.argument_types import NAME, ReadPath
from edgephi.cli.completion import complete_model, complete_recipe
from edgephi.cli.options import adapter_option, bundle_argument, json_option
from edgephi.cli.show.say import say, say_document

if TYPE_CHECKING:
    from edgephi.reference.evaluation_text import EvaluationLevel


@click.command(no_args_is_help=True)
@bundle_argument
@click.option(
    "--against",
    "model",
    type=NAME,
    shell_complete=complete_model,
    metavar="MODEL",
    help="Measure the quality again, against this checkpoint.",
)
@adapter_option
@click.option(
    "--level",
    type=click.Choice(["quick", "full"]),
    default="quick",
    show_default=True,
    help="With --against: measure on little text, or on enough to judge by.",
)
@click.option(
    "--recipe",
    "recipe_name",
    type=NAME,
    shell_complete=complete_recipe,
    metavar="R",
    help="With --against: the recipe whose gate holds.",
)
@click.option(
    "--signed-by",
    "key_file",
    type=ReadPath(),
    metavar="KEY",
    help="Check too that this key (NAME.pub) has signed it, as a device that trusts it does.",
)
@json_option
def verify(
    bundle: Path,
    *,
    model: str | None,
    adapter_names: tuple[str, ...],
    level: "EvaluationLevel",
    recipe_name: str | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Check a bundle's files; with --against, its quality too.

    Every file is held against the manifest, then the bundle against the checkpoint that it was made from.
    Exit code 4 names the file that is missing, changed or too much, 5 the number that is past the limit.
    """
    from edgephi.bundle.adapter_artifact import check_whole, entries_in
    from edgephi.bundle.artifact.foreign_files import check_artifact
    from edgephi.bundle.files import check_files
    from edgephi.bundle.manifest import read_manifest
    from edgephi.cli.show.certificate import certificate_details, certificate_table, report_line
    from edgephi.cli.show.progress import step
    from edgephi.records import write_record

    manifest = read_manifest(bundle)
    signer = None if key_file is None else _signer(bundle, key_file)
    entries = entries_in(bundle, manifest)
    if model is not None:
        check_whole(bundle, manifest)
    with step("check files", sum(entry.size for entry in entries)) as done:
        check_files(bundle, manifest, progress=done, entries=entries)
    check_artifact(manifest, lambda entry: bundle / entry.path, entries=entries)
    certificate = manifest.certificate
    if model is not None:
        from edgephi.build.build import find_checkpoint
        from edgephi.build.verify import verify_against
        from edgephi.checkpoint.adapter.locate_adapter import locate_adapters
        from edgephi.declared.recipe import read_recipe, recipe_for

        recipe = read_recipe(recipe_name) if recipe_name else recipe_for(manifest.model.variant)
        adapters = locate_adapters(adapter_names, progress=True)
        located = find_checkpoint(model, recipe, None, progress=True)
        certificate = verify_against(
            bundle, manifest, located, recipe, level=level, step=step, adapters=adapters
        )
    if as_json:
        document = {
            "bundle": str(bundle),
            "files": len(entries),
            "signer": signer,
            "measured_now": model is not None,
            "certificate": write_record(certificate),
            "report": report_line(certificate, manifest),
        }
        say_document(document)
        return
    say(f"{bundle}: {len(entries)} files as the manifest says")
    if signer is not None:
        say(f"signed by {signer}")
    say("\nmeasured now:" if model is not None else "\nmeasured when it was built:")
    say(certificate_table(certificate, manifest))
    if certificate.end_to_end is not None:
        say(f"\n{certificate_details(certificate)}")
        say(f"\nto compare with others:\n{report_line(certificate, manifest)}")
    for adapter in manifest.adapters:
        say(f"\nwith {adapter.described}, measured when it was made:")
        say(certificate_table(adapter.certificate, manifest))


def _signer(bundle: Path, key_file: Path) -> str:
    """The name of the key in a file, which has signed the bundle."""
    from edgephi.flash.folder import read_identity
    from edgephi.store.trust.authenticate import signer_of
    from edgephi.store.trust.trusted_keys import read_key_file

    return signer_of([read_key_file(key_file)], *read_identity(bundle))
