"""What a manifest alone tells: refused before anything is written."""

from __future__ import annotations

import dataclasses
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from edgephi.bundle.chunks import FileEntry
from edgephi.bundle.manifest import MANIFEST_NAME, Manifest, decode_manifest, encode_manifest
from edgephi.errors import BadBundleError, DoesNotFitError, EdgephiError, NotSupportedError
from edgephi.store.disk.free_space import reserve_bytes
from edgephi.store.disk.layout import Layout
from edgephi.store.install import Install
from edgephi.store.preflight import InstallOptions, check_disk
from tests.store.bundles import remade
from tests.store.conftest import UNPROVEN, install


def refusal(manifest: Manifest, root: Path, options: InstallOptions) -> EdgephiError:
    """The error that a manifest meets; nothing may be there afterwards that was not before."""
    before = sorted(root.rglob("*")) if root.exists() else None
    with pytest.raises(EdgephiError) as refused:
        Install.begin(root, encode_manifest(manifest), None, options=options)
    assert (sorted(root.rglob("*")) if root.exists() else None) == before
    return refused.value


def changed(bundle: Path, **changes: Any) -> Manifest:
    manifest = decode_manifest((bundle / MANIFEST_NAME).read_bytes())
    return dataclasses.replace(manifest, **changes)


@pytest.mark.parametrize(
    ("field", "changes", "error", "says"),
    [
        (
            "target",
            {"arch": ("sparc64",)},
            NotSupportedError,
            f"sparc64, this machine is {platform.machine()}",
        ),
        ("target", {"engine": "abacus"}, NotSupportedError, "abacus"),
        ("target", {"provider": "cuda"}, NotSupportedError, "cuda"),
        ("requires", {"engines": {"onnxruntime-genai": ">=99"}}, NotSupportedError, ">=99, found"),
        ("requires", {"memory_bytes": 1 << 45}, DoesNotFitError, "memory"),
    ],
)
def test_what_cannot_run_here(
    first: Path, tmp_path: Path, field: str, changes: dict[str, Any], error: type[EdgephiError], says: str
) -> None:
    manifest = changed(first)
    wrong = dataclasses.replace(manifest, **{field: dataclasses.replace(getattr(manifest, field), **changes)})
    refused = refusal(wrong, tmp_path / "store", InstallOptions())
    assert isinstance(refused, error)
    assert says in refused.message


def test_another_machine_is_asked_by_itself(first: Path, tmp_path: Path) -> None:
    """A disk that is mounted here may belong to a machine of any kind."""
    manifest = changed(first)
    foreign = dataclasses.replace(manifest.target, arch=("sparc64",))
    bundle = remade(first, tmp_path / "bundle", {}, target=foreign)
    outcome = install(bundle, tmp_path / "store", UNPROVEN)
    assert outcome.probe is None


def test_a_python_without_an_engine_cannot_run_it(first: Path, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    bare.chmod(0o755)
    refused = refusal(changed(first), tmp_path / "store", InstallOptions(interpreter=str(bare)))
    assert isinstance(refused, NotSupportedError)
    assert str(bare) in refused.message


def test_a_disk_that_is_too_small(first: Path, tmp_path: Path) -> None:
    huge = FileEntry("model/huge", 1 << 45, "0" * 64)
    with pytest.raises(DoesNotFitError, match="reserve") as refused:
        check_disk(Layout(tmp_path / "store"), changed(first, files=(huge,)), 0)
    assert "edgephi gc" in refused.value.hint


def test_a_disk_keeps_a_reserve() -> None:
    assert reserve_bytes(100_000_000) == 3_000_000
    assert reserve_bytes(10**13) == 1 << 30


def test_what_is_there_already_needs_no_room(first: Path, tmp_path: Path) -> None:
    """A device that is nearly full can still be mended."""
    install(first, tmp_path)
    free = shutil.disk_usage(tmp_path).free
    room = free - reserve_bytes(shutil.disk_usage(tmp_path).total) - (4 << 20)  # less than the ballast
    check_disk(Layout(tmp_path), changed(first), room)
    with pytest.raises(DoesNotFitError):
        check_disk(Layout(tmp_path / "other"), changed(first), room)


def test_an_older_release_needs_to_be_asked_for(first: Path, second: Path, tmp_path: Path) -> None:
    install(second, tmp_path)
    refused = refusal(changed(first), tmp_path, UNPROVEN)
    assert isinstance(refused, BadBundleError)
    assert "--allow-downgrade" in refused.hint
    install(first, tmp_path, dataclasses.replace(UNPROVEN, allow_downgrade=True))


def test_a_manifest_without_end(tmp_path: Path) -> None:
    with pytest.raises(BadBundleError, match="at most"):
        Install.begin(tmp_path / "store", b" " * (1 << 25), None)
    assert not (tmp_path / "store").exists()
