"""Small real wheels, so that pip can be asked without a network."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from edgephi.build.wheels.own_wheel import pack_wheel


def write_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    requires: Sequence[str] = (),
    extras: Sequence[str] = (),
    tag: str = "py3-none-any",
    size: int = 10,
) -> Path:
    """Write a wheel with one module of `size` bytes; `requires` and `extras` as its metadata have them."""
    folder.mkdir(parents=True, exist_ok=True)
    module = name.replace("-", "_")
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Provides-Extra: {extra}" for extra in extras]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    info = f"{module}-{version}.dist-info"
    contents = {
        f"{module}.py": b"#" * size,
        f"{info}/METADATA": "\n".join([*metadata, ""]).encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    file = folder / f"{module}-{version}-{tag}.whl"
    file.write_bytes(pack_wheel(contents, info))
    return file


def only_from(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let pip know no other wheels than those of a folder."""
    without_configuration(monkeypatch)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())


def only_from_index(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Let pip know one index only."""
    without_configuration(monkeypatch)
    monkeypatch.setenv("PIP_INDEX_URL", url)


def without_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep this machine's own settings of pip out."""
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
