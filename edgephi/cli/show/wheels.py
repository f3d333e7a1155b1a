"""How the wheels of a bundle are shown, and the command that installs them on the device."""

from pathlib import Path

from edgephi.bundle.manifest import Manifest, Wheelhouse
from edgephi.cli.show.sizes import human_bytes
from edgephi.commands import shell_command


def wheels_summary(manifest: Manifest, wheelhouse: Wheelhouse) -> str:
    """One wheelhouse in one line."""
    sizes = [entry.size for entry in manifest.files if entry.path.startswith(f"{wheelhouse.folder}/")]
    return (
        f"{wheelhouse.platform}: {len(sizes) - 1} wheels, {human_bytes(sum(sizes))}, "
        f"{human_bytes(wheelhouse.installed_bytes)} installed, glibc {wheelhouse.glibc}"
    )


def wheels_command(bundle: Path, wheelhouse: Wheelhouse) -> str:
    """What to type on the device; that file says that no index is asked and every hash must match."""
    environment = shell_command("python3", "-m", "venv", "venv")
    install = shell_command("venv/bin/pip", "install", "-r", bundle / wheelhouse.requirements)
    return f"{environment} && {install}"
