"""The files of a bundle against its manifest."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgephi.bundle.files import check_files
from edgephi.errors import BadBundleError
from tests.bundle.tiny import FILES, write_tiny_bundle


def replace_by_link(bundle: Path) -> None:
    outside = bundle.parent / "outside"
    (bundle / "model/model.onnx").rename(outside)
    (bundle / "model/model.onnx").symlink_to(outside)


def replace_folder_by_link(bundle: Path) -> None:
    (bundle / "model").rename(bundle.parent / "elsewhere")
    (bundle / "model").symlink_to(bundle.parent / "elsewhere")


def replace_by_folder(bundle: Path) -> None:
    (bundle / "model/model.onnx").unlink()
    (bundle / "model/model.onnx").mkdir()


def replace_by_pipe(bundle: Path) -> None:
    (bundle / "model/model.onnx").unlink()
    os.mkfifo(bundle / "model/model.onnx")


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (
        lambda b: (b / "model/model.onnx").unlink(),
        r"model/model\.onnx: expected a file of 5 bytes, found none",
    ),
    (lambda b: (b / "model/model.onnx").write_bytes(b"gra"), r"model\.onnx: expected 5 bytes, found 3"),
    (lambda b: (b / "model/more").write_bytes(b""), "model/more: expected only the files of the manifest"),
    (lambda b: (b / "more").write_bytes(b""), "more: expected only the files of the manifest"),
    (lambda b: (b / "model/empty").mkdir(), "model/empty: expected only .* found this folder too"),
    (replace_by_link, r"model\.onnx: expected a plain file, found a symbolic link to .*outside"),
    (replace_folder_by_link, "model: expected a plain file, found a symbolic link"),
    (replace_by_folder, r"model\.onnx: expected only .* found this folder too"),
    (replace_by_pipe, r"model\.onnx: expected a plain file, found a device, pipe or socket"),
]


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], object], message: str, quick: bool) -> None:
    bundle = tmp_path / "bundle"
    manifest = write_tiny_bundle(bundle)
    check_files(bundle, manifest, quick=quick)
    damage(bundle)
    with pytest.raises(BadBundleError, match=message):
        check_files(bundle, manifest, quick=quick)


def test_a_flipped_bit_is_found_by_its_hash(tmp_path: Path) -> None:
    manifest = write_tiny_bundle(tmp_path)
    (tmp_path / "model/model.onnx").write_bytes(b"grapi")
    check_files(tmp_path, manifest, quick=True)
    with pytest.raises(
        BadBundleError, match=r"model/model\.onnx: expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}"
    ):
        check_files(tmp_path, manifest)


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    counts: list[int] = []
    check_files(tmp_path, write_tiny_bundle(tmp_path), progress=counts.append)
    assert sum(counts) == sum(map(len, FILES.values()))


def test_signatures_of_the_manifest_may_lie_beside_it(tmp_path: Path) -> None:
    manifest = write_tiny_bundle(tmp_path)
    for name in ("bundle.dsse.json", "bundle.model-signing.json"):
        (tmp_path / name).write_text("{}")
    check_files(tmp_path, manifest)
    (tmp_path / "bundle.dsse.json").rename(tmp_path / "model/bundle.dsse.json")
    with pytest.raises(BadBundleError, match=r"model/bundle\.dsse\.json: expected only the files"):
        check_files(tmp_path, manifest)


def test_a_link_to_the_whole_bundle_is_fine(tmp_path: Path) -> None:
    manifest = write_tiny_bundle(tmp_path / "bundle")
    (tmp_path / "current").symlink_to("bundle")
    check_files(tmp_path / "current", manifest)
