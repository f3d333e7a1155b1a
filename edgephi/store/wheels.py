"""Unpack wheels into a Python environment, as the standard "Binary distribution format" describes it.

Every Python has `zipfile`; pip is a package of its own on Debian, and a box without a network cannot get it.
The wheels are files of a bundle whose digests were checked, and they were resolved when it was built.
"""

import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from edgephi.errors import BadBundleError

_BUFFER_BYTES = 1 << 20
_SCHEMES_IN_PACKAGES = ("purelib", "platlib")


def make_environment(folder: Path, interpreter: str, version: str) -> Path:
    """Lay out an empty virtual environment (PEP 405) in the new folder `folder`. Returns its site-packages.

    `interpreter` is a Python that is in no environment itself, `version` such as "3.11".
    """
    packages = folder / "lib" / f"python{version}" / "site-packages"
    packages.mkdir(parents=True)
    (folder / "bin").mkdir()
    for name in ("python", "python3"):
        (folder / "bin" / name).symlink_to(interpreter)
    home = Path(interpreter).parent
    (folder / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
    return packages


def base_interpreter() -> str:
    """The Python that runs this, not that of a virtual environment but the one it was made from."""
    return getattr(sys, "_base_executable", None) or sys.executable


def unpack_wheel(wheel: Path, environment: Path, packages: Path, progress: Callable[[int], None]) -> None:
    """Unpack one wheel; commands and headers are left out. `progress` is told of bytes written.

    Raises BadBundleError when it is no wheel, or would write outside the environment.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                destination = _destination(entry.filename, environment, packages)
                if destination is None or entry.is_dir():
                    continue
                if not destination.is_relative_to(environment) or ".." in destination.parts:
                    raise _bad(wheel, f"found {entry.filename!r}, which leaves the folder")
                destination.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, destination.open("wb") as file:
                    shutil.copyfileobj(source, file, _BUFFER_BYTES)
                if entry.external_attr >> 16 & 0o111:
                    destination.chmod(0o755)
                progress(entry.file_size)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as cause:
        raise _bad(wheel, f"found {cause}") from None


def _destination(name: str, environment: Path, packages: Path) -> Path | None:
    """Where a file of a wheel goes; None for what an environment without commands does not need."""
    top, _, rest = name.partition("/")
    if not top.endswith(".data"):
        return packages / name
    scheme, _, below = rest.partition("/")
    if scheme in _SCHEMES_IN_PACKAGES:
        return packages / below
    return environment / below if scheme == "data" else None


def _bad(wheel: Path, found: str) -> BadBundleError:
    return BadBundleError(f"{wheel}: expected a wheel, {found}", hint="build the bundle again")
