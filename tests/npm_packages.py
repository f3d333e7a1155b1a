"""Packages of npm that tests need in a browser: installed once, into pytest's cache.

None of their scripts runs. A clone alone has none, and a machine may lack npm or a way to its registry: then
what needs them is skipped.
"""

import fcntl
import shutil
import subprocess
from pathlib import Path

PACKAGES = ("axe-core@4.14.1", "openai@7.59.0")
_DONE = "installed"
_SECONDS = 300
_OPTIONS = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")


class NoPackagesError(Exception):
    """They are not to be had; says why."""


def npm_packages(cache: Path) -> Path:
    """The folder `node_modules` with `PACKAGES`, below the folder `cache`. Raises NoPackagesError."""
    wanted = "\n".join(PACKAGES)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes of tests want them at once
        done = cache / _DONE
        if not done.is_file() or done.read_text(encoding="utf-8") != wanted:
            _install(cache)
            done.write_text(wanted, encoding="utf-8")
    return cache / "node_modules"


def _install(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise NoPackagesError("no npm here")
    # Without a file of its own, npm takes the next folder above that has one.
    (folder / "package.json").write_text('{"private": true}\n', encoding="utf-8")
    command = [npm, "install", *_OPTIONS, *PACKAGES]
    try:
        subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=_SECONDS)
    except subprocess.CalledProcessError as cause:
        said = next((line for line in cause.stderr.splitlines() if line.strip()), "nothing")
        raise NoPackagesError(f"npm ended with {cause.returncode}: {said}") from None
    except subprocess.TimeoutExpired:
        raise NoPackagesError(f"npm took more than {_SECONDS} s") from None
