"""Packages of which only what pip notes about them is there."""

from pathlib import Path


def install(folder: Path, versions: dict[str, str], requires: list[str] | None = None) -> Path:
    """Write into a folder what pip notes of packages that it has installed."""
    for name, version in versions.items():
        noted = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        noted.mkdir(parents=True)
        lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {each}" for each in requires or ()]
        (noted / "METADATA").write_text("\n".join(lines) + "\n")
    return folder
