"""`edgephi flash`: put a bundle on a device, so that it has a working model at every moment."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgephi.cli.argument_types import NAME, ReadPath, read_size
from edgephi.cli.completion import complete_bundle
from edgephi.cli.options import boxes_option, insecure_option, json_option, parallel_option
from edgephi.cli.show.say import say, say_document
from edgephi.commands import edgephi_command, place
from edgephi.errors import UsageError

if TYPE_CHECKING:
    from edgephi.flash.source import BundleSource
    from edgephi.store.preflight import InstallOptions


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
@boxes_option
@parallel_option("flash")
@click.option(
    "--check",
    is_flag=True,
    help="Write nothing: say whether DEST would take the bundle, and what would be sent.",
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
    boxes_file: Path | None,
    parallel: int,
    check: bool,
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

    With --check nothing is written: exit code 0 says that every DEST would take the bundle, if it answers.

    `edgephi run DEST` runs the active one. Exit code 5: the new one did not answer as it must, and what was
    active still is. Exit code 6: a box could not be reached or, of several, one failed.
    """
    from edgephi.cli.flash_boxes import flash_boxes
    from edgephi.cli.flash_check import check_flash
    from edgephi.cli.flash_image import flash_image, image_file
    from edgephi.cli.fleet.stores import read_stores
    from edgephi.flash.destination import IMAGE_SCHEME, Box
    from edgephi.store.disk.lock import LOCK_WAIT_SECONDS
    from edgephi.store.preflight import InstallOptions

    images = [image_file(each) for each in destinations if each.startswith(IMAGE_SCHEME)]
    words = [each for each in destinations if not each.startswith(IMAGE_SCHEME)]
    stores = read_stores(words, boxes_file)
    is_box = bool(stores) and all(isinstance(store.place, Box) for store in stores)
    if len(images) + len(stores) > 1 and not check and (images or not is_box):
        raise UsageError(
            f"{destinations[1]}: expected several destinations to be ssh://… all, found another kind",
            hint="flash a folder or an image by itself",
        )
    _check_options(
        destinations[0] if images else stores[0].destination,
        "image" if images else "box" if is_box else "folder",
        limit_rate=bytes_per_second,
        elsewhere=elsewhere,
        size=size,
        keys=keys,
        unsigned_wheels=unsigned_wheels,
        check=check,
    )
    options = InstallOptions(
        allow_downgrade=allow_downgrade,
        prove=not elsewhere,
        lock_wait_seconds=LOCK_WAIT_SECONDS,
        unsigned_wheels=unsigned_wheels,
    )
    with _opened_source(bundle, insecure=insecure) as source:
        if images:
            flash_image(source, images[0], size, keys, prove_here=not elsewhere, as_json=as_json)
            return
        if check:
            code = check_flash(source, stores, options, parallel=parallel, as_json=as_json)
        elif is_box:
            from edgephi.flash.ssh.transfer import TransferSettings

            settings = TransferSettings(
                allow_downgrade, bytes_per_second, parallel=parallel, unsigned_wheels=unsigned_wheels
            )
            with _kept_when_interrupted():
                code = flash_boxes(source, stores, settings, as_json=as_json)
        else:
            code = _flash_folder(source, destinations[0], options, as_json=as_json)
    raise click.exceptions.Exit(code)


def _flash_folder(
    source: "BundleSource", destination: str, options: "InstallOptions", *, as_json: bool
) -> int:
    """Flash the store in a folder and say what was done. Returns the exit code."""
    from edgephi.cli.show.outcome import answer_of, outcome_summary
    from edgephi.cli.show.progress import transfer
    from edgephi.flash.folder import check_apart, flash_source
    from edgephi.records import write_record

    start = time.perf_counter()
    root = Path(destination)
    check_apart(source, root)
    with _kept_when_interrupted():
        outcome = flash_source(source, root, options, step=transfer)
    seconds = time.perf_counter() - start
    if as_json:
        say_document(
            {
                "destination": destination,
                "seconds": round(seconds, 3),
                **write_record(outcome),
                "answer": answer_of(outcome.probe),
            }
        )
    else:
        say(outcome_summary(destination, outcome, seconds, outcome.sent_bytes, outcome.saved_bytes))
    return 0


def _check_options(destination: str, kind: str, **given: Any) -> None:
    """Raise UsageError for an option that means nothing for this kind of destination."""
    from edgephi.flash.destination import IMAGE_SCHEME

    limit, unsigned_wheels = given["limit_rate"], given["unsigned_wheels"]
    image = f"{IMAGE_SCHEME}FILE"

    def refuse(option: str, expected: str, found: str, hint: str = "leave it out") -> None:
        raise UsageError(f"{option}: expected {expected}, found {found}", hint=hint)

    if limit is not None and (kind != "box" or limit < 1):
        refuse("--limit-rate", "1 or more, with ssh://…", str(limit) if kind == "box" else f"a {kind}")
    if given["elsewhere"] and kind == "box":
        refuse("--elsewhere", "with a folder", "ssh://…")
    if given["size"] is not None and kind != "image":
        refuse("--size", f"with {image}", repr(destination))
    if given["keys"] and kind != "image":
        hint = edgephi_command("trust", "add", place(destination), given["keys"][0])
        refuse("--trust", f"with {image}", repr(destination), hint)
    if unsigned_wheels and (kind == "image" or given["elsewhere"]):
        found = repr(destination) if kind == "image" else "--elsewhere"
        refuse("--unsigned-wheels", "where the bundle has to answer", found)
    if given["check"] and kind == "image":
        refuse("--check", "with a folder or ssh://…", repr(destination))


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
