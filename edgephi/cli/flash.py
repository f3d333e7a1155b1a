"""`edgephi flash`: put a bundle on a device, so that it has a working model at every moment."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgephi.cli.argument_types import NAME, ReadPath, read_size
from edgephi.cli.completion import complete_bundle
from edgephi.cli.options import insecure_option, json_option
from edgephi.cli.show.say import say, say_document
from edgephi.commands import edgephi_command, place

if TYPE_CHECKING:
    from edgephi.flash.source import BundleSource


@click.command(no_args_is_help=True)
@click.argument("bundle", type=NAME, shell_complete=complete_bundle)
@click.argument("destinations", type=NAME, nargs=-1, required=True, metavar="DEST...")
@click.option(
    "--allow-downgrade",
    is_flag=True,
    help="Take a release older than the newest that the store has had; never one below its security floor.",
)
@click.option(
    "--elsewhere",
    is_flag=True,
    help="DEST is the disk of another machine: leave out what only that one can tell, the probe too.",
)
@click.option(
    "--size",
    callback=lambda context, option, value: None if value == "auto" else read_size(context, option, value),
    metavar="SIZE",
    help="Size of an image, such as 8GB. [default: auto, with room for the next release too]",
)
@click.option(
    "--trust",
    "keys",
    type=ReadPath(),
    multiple=True,
    metavar="KEY",
    help="Have the store in an image take only what this key (NAME.pub) has signed; may be given again.",
)
@click.option(
    "--unsigned-wheels",
    is_flag=True,
    help="Where DEST has no engine and no key: run code from wheels that nobody signed as that store's user.",
)
@click.option(
    "--limit-rate",
    "bytes_per_second",
    callback=read_size,
    metavar="SIZE",
    help="Send at most so many bytes a second over ssh, all boxes together, such as 500kB.",
)
@click.option(
    "--parallel",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    metavar="N",
    help="Boxes to flash over ssh at the same time.",
)
@insecure_option
@json_option
def flash(
    bundle: str,
    destinations: tuple[str, ...],
    *,
    allow_downgrade: bool,
    elsewhere: bool,
    size: int | None,
    keys: tuple[Path, ...],
    unsigned_wheels: bool,
    bytes_per_second: int | None,
    parallel: int,
    insecure: bool,
    as_json: bool,
) -> None:
    """Put a bundle on a device, proven before it is active.

    DEST is the folder of a store, on this machine or on a mounted disk, or ssh://[USER@]HOST[:PORT]/PATH for
    one on a box with sshd and Python 3.11, which needs nothing else; several of these are flashed at once.

    All that the manifest tells is checked before a byte of the model moves: signature, release, architecture,
    engine, memory, disk. What DEST has already, in any bundle, is not sent again, and a transfer that was cut
    goes on. The new bundle must answer as it did when it was built; only then, in one step, it becomes the
    active one.

    BUNDLE is a folder, or oci://REGISTRY/NAME:TAG: then DEST gets from the registry what it lacks. With
    image:FILE as DEST, the store is written as an ext4 image of a partition, the same bytes every time.

    `edgephi run DEST` runs the active one. Exit code 5: the new one did not answer as it must, and what was
    active still is. Exit code 6: a box could not be reached or, of several, one failed.
    """
    from edgephi.cli.flash_boxes import flash_boxes
    from edgephi.cli.flash_image import flash_image, image_file
    from edgephi.cli.show.outcome import outcome_summary
    from edgephi.cli.show.progress import transfer
    from edgephi.errors import UsageError
    from edgephi.flash.destination import IMAGE_SCHEME, Box, read_destination
    from edgephi.flash.folder import check_apart, flash_source
    from edgephi.records import write_record
    from edgephi.store.disk.lock import LOCK_WAIT_SECONDS
    from edgephi.store.preflight import InstallOptions

    places = [
        image_file(each) if each.startswith(IMAGE_SCHEME) else read_destination(each) for each in destinations
    ]
    boxes = [each for each in places if isinstance(each, Box)]
    (first, *_), (destination, *others) = places, destinations
    if others and len(boxes) < len(destinations):
        raise UsageError(
            f"{others[0]}: expected several destinations to be ssh://… all, found another kind",
            hint="flash a folder or an image by itself",
        )
    if bytes_per_second is not None and (not boxes or bytes_per_second < 1):
        found = "a folder" if not boxes else bytes_per_second
        raise UsageError(
            f"--limit-rate: expected 1 or more, with ssh://…, found {found}", hint="leave it out"
        )
    if boxes and elsewhere:
        raise UsageError("--elsewhere: expected with a folder, found ssh://…", hint="leave it out")
    is_image = destination.startswith(IMAGE_SCHEME)
    if size is not None and not is_image:
        raise UsageError(
            f"--size: expected with {IMAGE_SCHEME}FILE, found {destination!r}", hint="leave it out"
        )
    if keys and not is_image:
        raise UsageError(
            f"--trust: expected with {IMAGE_SCHEME}FILE, found {destination!r}",
            hint=edgephi_command("trust", "add", place(destination), keys[0]),
        )
    if unsigned_wheels and (is_image or elsewhere):
        found = repr(destination) if is_image else "--elsewhere"
        raise UsageError(
            f"--unsigned-wheels: expected where the bundle has to answer, found {found}", hint="leave it out"
        )
    start = time.perf_counter()
    with _opened_source(bundle, insecure=insecure) as source:
        if isinstance(first, Box):
            from edgephi.flash.ssh.transfer import TransferSettings

            settings = TransferSettings(
                allow_downgrade, bytes_per_second, parallel=parallel, unsigned_wheels=unsigned_wheels
            )
            with _kept_when_interrupted():
                code = flash_boxes(source, destinations, settings, as_json=as_json)
            raise click.exceptions.Exit(code)
        if is_image:
            flash_image(source, first, size, keys, prove_here=not elsewhere, as_json=as_json)
            return
        check_apart(source, first)
        options = InstallOptions(
            allow_downgrade=allow_downgrade,
            prove=not elsewhere,
            lock_wait_seconds=LOCK_WAIT_SECONDS,
            unsigned_wheels=unsigned_wheels,
        )
        with _kept_when_interrupted():
            outcome = flash_source(source, first, options, step=transfer)
    seconds = time.perf_counter() - start
    if as_json:
        document = {
            "destination": destination,
            "seconds": round(seconds, 3),
            **write_record(outcome),
        }
        say_document(document)
        return
    say(outcome_summary(destination, outcome, seconds, outcome.sent_bytes, outcome.saved_bytes))


@contextmanager
def _kept_when_interrupted() -> "Iterator[None]":
    """After Ctrl-C, say what became of what was sent."""
    try:
        yield
    except KeyboardInterrupt:
        say("stopped: what has arrived is kept, and the same command goes on from there", err=True)
        raise


@contextmanager
def _opened_source(bundle: str, *, insecure: bool) -> "Iterator[BundleSource]":
    """The bundle of the command line, a folder or an artifact in a registry."""
    from edgephi.errors import UsageError
    from edgephi.flash.folder import folder_source
    from edgephi.flash.oci.reference import SCHEME, is_reference, read_reference

    if is_reference(bundle):
        from edgephi.flash.oci.source import open_source

        with open_source(read_reference(bundle), insecure=insecure) as source:
            yield source
    elif insecure:
        raise UsageError(
            f"--insecure: expected with {SCHEME}REGISTRY/NAME:TAG, found {bundle!r}", hint="leave it out"
        )
    else:
        yield folder_source(Path(bundle))
