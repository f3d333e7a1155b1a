"""A bundle is there whole or not at all."""

import fcntl
import hashlib
import os
from pathlib import Path

import pytest

from edgephi.bundle.chunks import FileEntry
from edgephi.bundle.unfinished import file_sha256, list_files, seal, unfinished_bundle
from edgephi.errors import DoesNotFitError, UsageError
from tests.build.conftest import names


def test_sealing_gives_the_folder_its_name(work: Path) -> None:
    with unfinished_bundle(work / "b", needs_bytes=0) as partial:
        assert names(work) == {".b.partial", ".b.lock"}
        (partial / "model/weights").write_bytes(b"x")
        seal(partial, work / "b")
    assert names(work) == {"b"}
    assert (work / "b/model/weights").read_bytes() == b"x"


def test_an_exception_leaves_nothing(work: Path) -> None:
    with pytest.raises(ZeroDivisionError), unfinished_bundle(work / "b", needs_bytes=0) as partial:
        (partial / "model/weights").write_bytes(b"x")
        _ = 1 / 0
    assert names(work) == set()


def test_a_bundle_that_is_not_sealed_goes(work: Path) -> None:
    with unfinished_bundle(work / "b", needs_bytes=0):
        pass
    assert names(work) == set()


def test_a_relative_destination(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    with unfinished_bundle(Path("b"), needs_bytes=0) as partial:
        seal(partial, Path("b"))
    assert names(work) == {"b"}


def test_more_than_the_disk_has(work: Path) -> None:
    with (
        pytest.raises(DoesNotFitError, match=r"needs 1,000,000,000,000.0 MB of disk"),
        unfinished_bundle(work / "b", needs_bytes=10**18),
    ):
        raise AssertionError("it must not come to this")
    assert names(work) == set()


def test_what_a_killed_build_left_is_swept(work: Path) -> None:
    (work / ".b.partial/model").mkdir(parents=True)
    (work / ".b.partial/model/old").touch()
    (work / ".b.lock").touch()
    with unfinished_bundle(work / "b", needs_bytes=0) as partial:
        assert names(partial / "model") == set()
    assert names(work) == set()


def test_a_second_build_is_refused_and_leaves_the_first_its_lock(work: Path) -> None:
    with unfinished_bundle(work / "b", needs_bytes=0) as partial:
        for _ in range(2):
            with (
                pytest.raises(UsageError, match=rf"process {os.getpid()} \(.*\) is building this bundle"),
                unfinished_bundle(work / "b", needs_bytes=0),
            ):
                raise AssertionError("it must not come to this")
        assert (partial / "model").is_dir()
    assert names(work) == set()


def test_a_lock_that_its_holder_removes_while_we_ask_for_it(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking, the file may lose its name; then it locks out nobody."""
    real, asked = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        asked.append(descriptor)
        if len(asked) == 1:
            (work / ".b.lock").unlink()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with unfinished_bundle(work / "b", needs_bytes=0):
        assert len(asked) == 2
        assert names(work) == {".b.partial", ".b.lock"}
    assert names(work) == set()


def test_a_link_in_the_place_of_the_unfinished_bundle_is_not_followed(work: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/kept").touch()
    (work / ".b.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Exception, match=r"File exists"), unfinished_bundle(work / "b", needs_bytes=0):
        raise AssertionError("it must not come to this")
    assert names(tmp_path / "elsewhere") == {"kept"}


def test_files_are_listed_in_order_and_hashed_once(work: Path) -> None:
    (work / "model").mkdir()
    for name in ("b", "a", "model/c"):
        (work / name).write_bytes(name.encode())
    (work / "bundle.json").touch()
    known = FileEntry("model/c", 7, "known", ("3:known", "4:known"))
    listed = list_files(work, [known])
    assert [(entry.path, entry.size) for entry in listed] == [("a", 1), ("b", 1), ("model/c", 7)]
    assert [entry.sha256 for entry in listed[:2]] == [file_sha256(work / "a"), file_sha256(work / "b")]
    assert listed[2] == known


def test_a_file_without_known_tensors_is_cut_every_mebibyte(work: Path) -> None:
    content = bytes(range(256)) * (10 << 10)  # 2.5 MiB
    (work / "wheel").write_bytes(content)
    (entry,) = list_files(work)
    assert entry.sha256 == hashlib.sha256(content).hexdigest()
    parts = [content[: 1 << 20], content[1 << 20 : 2 << 20], content[2 << 20 :]]
    assert entry.chunks == tuple(f"{len(part)}:{hashlib.sha256(part).hexdigest()}" for part in parts)
