"""The part of `edgephi flash` that writes an image of a partition."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgephi.cli.argument_types import WrittenPath
from edgephi.cli.show.say import say, say_document
from edgephi.commands import shell_command
from edgephi.errors import UsageError
from edgephi.flash.destination import IMAGE_SCHEME

if TYPE_CHECKING:
    from edgephi.flash.image.partition import Image
    from edgephi.flash.source import BundleSource


def image_file(text: str) -> Path:
    """The file of a destination `image:FILE`. Raises UsageError."""
    name = text.removeprefix(IMAGE_SCHEME)
    if not name.strip():
        raise UsageError(f"{text}: expected a file after {IMAGE_SCHEME}, found none", hint="name one")
    file = WrittenPath().convert(name, None, None)
    assert isinstance(file, Path)  # noqa: S101 - for the type checker
    return file


def flash_image(
    source: "BundleSource",
    file: Path,
    size: int | None,
    keys: Sequence[Path],
    *,
    prove_here: bool,
    as_json: bool,
) -> None:
    """Write the image and say what is in it."""
    from edgephi.cli.show.progress import transfer
    from edgephi.flash.image.partition import write_image
    from edgephi.records import write_record

    image = write_image(source, file, size, keys=keys, prove_here=prove_here, step=transfer)
    if not as_json:
        say(_summary(image))
        return
    document = {
        "destination": f"{IMAGE_SCHEME}{file}",
        "size": image.size,
        "free_bytes": image.free_bytes,
        "digest": image.digest,
        "name": image.manifest.name,
        "sequence": image.manifest.sequence,
        "probe": None if image.probe is None else write_record(image.probe),
    }
    say_document(document)


def _summary(image: "Image") -> str:
    """What was written, in a few lines."""
    from edgephi.cli.show.outcome import first_words
    from edgephi.cli.show.sizes import human_bytes

    manifest = image.manifest
    lines = [
        f"{image.file}: {manifest.name}, release {manifest.sequence} ({image.digest[:12]})",
        f"ext4 of {human_bytes(image.size)}, {human_bytes(image.free_bytes)} free for the next release",
    ]
    if image.probe is None:
        lines.append(f"not proven here: {image.unproven}")
    else:
        lines += [f"probe: it answered here {image.probe.speed}", *first_words(image.probe)]
    # As it stands, without a partition's name in it, it writes nothing.
    copy = shell_command("dd", f"if={image.file}", "of=/dev/PARTITION", "bs=4M", "conv=nocreat,fsync")
    lines.append(f"to a partition: {copy}")
    return "\n".join(lines)
