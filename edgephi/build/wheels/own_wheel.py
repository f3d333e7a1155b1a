"""edgephi's own wheel, made again from what is installed: the device gets the edgephi that built the bundle.

An installed distribution lists its files in RECORD (the standard "Recording installed projects"); a wheel is
the same files in a zip (the standard "Binary distribution format"). An editable installation has only its
metadata there: its source is built with pip first. Both ways end in the same packer, which writes the same
bytes each time.
"""

import base64
import csv
import hashlib
import importlib.metadata
import io
import json
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from edgephi.build.wheels.pip import run_pip
from edgephi.commands import install_command, pip_command
from edgephi.errors import BadInputError, NotSupportedError
from edgephi.installed.origin import requirement

NAME = "edgephi"
_PURE_TAG = "py3-none-any"
# Installers add files of their own to the metadata; these are the wheel's.
_METADATA_FILES = ("METADATA", "WHEEL", "entry_points.txt")
_LICENSES = "licenses/"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold
_FILE_MODE = 0o100644 << 16


def write_own_wheel(folder: Path) -> Path:
    """Write edgephi's wheel into `folder`, from this very installation; the same bytes each time.

    Raises NotSupportedError when edgephi is not installed, BadInputError when an installed file is not what
    was installed, and what `run_pip` raises when the source of an editable installation is built.
    """
    try:
        distribution = importlib.metadata.distribution(NAME)
    except importlib.metadata.PackageNotFoundError:
        raise NotSupportedError(
            "expected an installed edgephi, found none: there is no wheel to make", hint=install_command()
        ) from None
    source = _editable_source(distribution)
    contents = _installed_files(distribution) if source is None else _built_files(source, folder)
    wheel = folder / f"{NAME}-{distribution.version}-{_PURE_TAG}.whl"
    wheel.write_bytes(pack_wheel(contents, f"{NAME}-{distribution.version}.dist-info"))
    return wheel


def pack_wheel(contents: Mapping[str, bytes], metadata_folder: str) -> bytes:
    """A wheel of these files, with a RECORD of its own; sorted, of one date, and stored as they are.

    Nothing is compressed, because compressors differ from one system to the next.
    """
    rows = [(name, _record_hash(data), str(len(data))) for name, data in sorted(contents.items())]
    record = io.StringIO()
    csv.writer(record, lineterminator="\n").writerows([*rows, (f"{metadata_folder}/RECORD", "", "")])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        # The standard asks for the metadata at the end of the archive.
        names = sorted(contents, key=lambda name: (name.startswith(f"{metadata_folder}/"), name))
        for name in names:
            _add(archive, name, contents[name])
        _add(archive, f"{metadata_folder}/RECORD", record.getvalue().encode())
    return file.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = _FILE_MODE
    entry.create_system = 3  # Unix, wherever this runs
    archive.writestr(entry, data)


def _editable_source(distribution: importlib.metadata.Distribution) -> Path | None:
    """The source folder of an editable installation; None for any other."""
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return None
    return Path(urllib.request.url2pathname(urllib.parse.urlsplit(origin["url"]).path))


def _built_files(source: Path, folder: Path) -> dict[str, bytes]:
    """The files of a wheel that pip builds from a source folder, without its RECORD."""
    built = folder / "built"
    run_pip(
        ["wheel", "--no-deps", "--wheel-dir", str(built), str(source)],
        scratch=folder,
        where="building edgephi's own wheel",
    )
    (file,) = built.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def _installed_files(distribution: importlib.metadata.Distribution) -> dict[str, bytes]:
    """The wheel's files as they are installed, each held against the hash of its installation."""
    contents = {}
    for file in distribution.files or ():
        if not _is_the_wheels(file):
            continue
        try:
            data = Path(str(file.locate())).read_bytes()
        except OSError as cause:
            raise BadInputError(
                f"{file}: expected a file of the installed edgephi, found {cause.strerror}", hint=_again()
            ) from None
        digest = file.hash
        if digest is not None and _encoded(hashlib.new(digest.mode, data).digest()) != digest.value:
            raise BadInputError(
                f"{file}: expected the file as it was installed, found a changed one", hint=_again()
            )
        contents[file.as_posix()] = data
    return contents


def _is_the_wheels(file: PurePosixPath) -> bool:
    """Whether an installed file came out of the wheel, and is no addition of an installer."""
    top, *below = file.parts
    if top == ".." or file.suffix == ".pyc":
        return False
    if not top.endswith(".dist-info"):
        return True
    name = "/".join(below)
    return name in _METADATA_FILES or name.startswith(_LICENSES)


def _record_hash(data: bytes) -> str:
    return f"sha256={_encoded(hashlib.sha256(data).digest())}"


def _encoded(digest: bytes) -> str:
    """A digest as RECORD has it: base64 for URLs, without padding."""
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _again() -> str:
    """The command that installs edgephi once more, and nothing else."""
    return pip_command("install", "--force-reinstall", "--no-deps", *requirement(()))
