"""Time of `edgephi --help`, and the size of a device's and a builder's installation.

Installs the working copy into fresh virtual environments, which takes a minute.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.measure import report

_NOT_OURS = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
_ROOT = Path(__file__).parents[2]


def main() -> None:
    """Measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=15)
    runs = arguments.parse_args().runs
    rows = []
    for extras in ("cpu", "build,cpu"):
        with tempfile.TemporaryDirectory() as name:
            environment = Path(name)
            subprocess.run([sys.executable, "-m", "venv", environment], check=True)
            scripts = environment / "bin"
            subprocess.run([scripts / "pip", "install", "--quiet", f"{_ROOT}[{extras}]"], check=True)
            seconds = statistics.median(_help_seconds(scripts / "edgephi") for _ in range(runs))
            files, bytecode = _installed_bytes(environment)
            rows.append(
                (
                    f"edgephi[{extras}]",
                    f"{files / 1e6:.0f} MB",
                    f"{bytecode / 1e6:.0f} MB",
                    f"{seconds:.3f} s",
                )
            )
    report(("", "site-packages", "bytecode beside it", "edgephi --help"), rows)


def _help_seconds(program: Path) -> float:
    start = time.perf_counter()
    subprocess.run([program, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _installed_bytes(environment: Path) -> tuple[int, int]:
    """Bytes of what was installed, and of the bytecode that pip compiles (`--no-compile` leaves it out)."""
    (site_packages,) = environment.glob("lib/python*/site-packages")
    for package in (*site_packages.glob("*torch*"), *site_packages.glob("transformers*")):
        raise SystemExit(f"{package.name} must not be in a device's or a builder's environment")
    sizes = {False: 0, True: 0}
    for path in site_packages.rglob("*"):
        if path.is_file() and not path.relative_to(site_packages).parts[0].startswith(_NOT_OURS):
            sizes[path.suffix == ".pyc"] += path.stat().st_size
    return sizes[False], sizes[True]


if __name__ == "__main__":
    main()
