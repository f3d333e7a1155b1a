"""An image of a partition with a store in it: the same bytes every time, and a working store when mounted."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgephi.errors import DoesNotFitError
from edgephi.flash.folder import folder_source
from edgephi.flash.image.partition import Image, write_image
from tests.bundle.tiny import write_tiny_bundle
from tests.cli.conftest import Edgephi, is_one_error
from tests.flash.oci.conftest import folder_bytes

NOBODY = 65534
TOOLS = ("mke2fs", "debugfs", "dumpe2fs", "e2fsck")
pytestmark = pytest.mark.skipif(
    any(shutil.which(tool, path="/sbin:/usr/sbin") is None for tool in TOOLS), reason="needs e2fsprogs"
)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A bundle that is quick to copy and cannot run."""
    write_tiny_bundle(
        tmp_path / "tiny", {"model/a.json": b"{}", "model/model.onnx.data": os.urandom(3 << 20)}
    )
    return tmp_path / "tiny"


def image_of(bundle: Path, file: Path, size: int | None = None) -> Image:
    return write_image(folder_source(bundle), file, size, prove_here=False)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@contextlib.contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """The image as a device sees it."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount an image")
    folder.mkdir()
    done = subprocess.run(["mount", "-o", "loop", image, folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"needs loop devices: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_the_same_bundle_makes_the_same_image(tiny: Path, tmp_path: Path) -> None:
    first = image_of(tiny, tmp_path / "first.img")
    time.sleep(1.1)  # ext4 counts seconds
    copy = shutil.copytree(tiny, tmp_path / "elsewhere" / "under another name")
    (copy / "model").chmod(0o700)
    for file in copy.rglob("*.json"):
        file.chmod(0o600)
    second = image_of(copy, tmp_path / "elsewhere" / "second.img")
    assert sha256(first.file) == sha256(second.file)
    assert first.size == first.file.stat().st_size


def test_the_umask_makes_no_difference(tiny: Path, tmp_path: Path) -> None:
    """Under 077 the service of a device could not look into the store."""
    digests = set()
    for mask in (0o022, 0o077):
        before = os.umask(mask)
        try:
            digests.add(sha256(image_of(tiny, tmp_path / f"{mask}.img").file))
        finally:
            os.umask(before)
    assert len(digests) == 1


def test_another_bundle_makes_another_file_system(tiny: Path, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "other", {"model/a.json": b"[]"})
    images = [image_of(bundle, tmp_path / f"{bundle.name}.img") for bundle in (tiny, tmp_path / "other")]
    assert len({uuid_of(image.file) for image in images}) == 2


def uuid_of(image: Path) -> str:
    said = subprocess.run(["/sbin/dumpe2fs", "-h", image], capture_output=True, text=True, check=True).stdout
    match = re.search(r"Filesystem UUID: +(\S+)", said)
    assert match is not None
    return match[1]


def test_the_time_is_that_of_the_build_or_of_the_environment(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epoch, year in ((None, "2026"), ("1000000000", "2001")):
        if epoch is not None:
            monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        image = image_of(tiny, tmp_path / f"{year}.img").file
        said = subprocess.run(
            ["/sbin/debugfs", "-R", "stat current", image], capture_output=True, text=True, check=True
        ).stdout
        assert set(re.findall(r"^ ?\w{5,6}: 0x\w+:00000000 -- .* (\d{4})$", said, re.MULTILINE)) == {year}


@pytest.mark.parametrize("created", ["yesterday", "1960-01-01T00:00:00Z", "9999-01-01T00:00:00Z"])
def test_a_time_that_no_file_can_have(
    tmp_path: Path,
    edgephi: Edgephi,
    created: str,
) -> None:
    write_tiny_bundle(tmp_path / "bundle", created=created)
    done = edgephi("flash", tmp_path / "bundle", f"image:{tmp_path / 'x.img'}", "--elsewhere")
    assert is_one_error(done, 4), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_it_is_clean_and_sparse_and_belongs_to_root(tiny: Path, tmp_path: Path) -> None:
    image = image_of(tiny, tmp_path / "x.img", size=1 << 30)
    assert image.size == 1 << 30
    assert image.file.stat().st_blocks * 512 < 8 << 20
    subprocess.run(["/sbin/e2fsck", "-f", "-n", image.file], check=True, capture_output=True)
    with mounted(image.file, tmp_path / "mounted") as folder:
        for path in (folder, *folder.rglob("*")):
            facts = path.lstat()
            assert (facts.st_uid, facts.st_gid) == (0, 0), path
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755
        assert folder_bytes(folder / "current") == folder_bytes(tiny)


def test_no_root_is_needed_and_makes_no_difference(tiny: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    public = Path(tempfile.mkdtemp())  # where everybody may go
    try:
        shutil.copytree(tiny, public / "bundle")
        for path in (public, *public.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        # A fork, because nobody else may read the Python of the one who runs this.
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                image_of(public / "bundle", public / "x.img")
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert (public / "x.img").stat().st_uid == NOBODY
        assert sha256(public / "x.img") == sha256(image_of(tiny, tmp_path / "x.img").file)
    finally:
        shutil.rmtree(public)


def test_too_small_is_refused_with_both_numbers(
    tiny: Path,
    tmp_path: Path,
    edgephi: Edgephi,
) -> None:
    done = edgephi("flash", tiny, f"image:{tmp_path / 'x.img'}", "--size", "9MB", "--elsewhere")
    assert is_one_error(done, 3), done.stderr
    match = re.search(r"needs ([\d.]+) MB for tiny-cpu, --size gives 9\.0 MB", done.stderr)
    assert match is not None, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    # The number is true: a little less is refused, and as much is enough.
    needed = round(float(match[1]) * 1e6 / (1 << 20)) << 20
    with pytest.raises(DoesNotFitError):
        image_of(tiny, tmp_path / "x.img", size=needed - 4096)
    assert image_of(tiny, tmp_path / "x.img", size=needed).free_bytes < 3 << 20


@pytest.mark.parametrize("mebibytes", [1, 40, 300])
def test_what_is_asked_for_fits_whatever_the_size(tmp_path: Path, mebibytes: int) -> None:
    """The estimate comes before any file is copied; it must hold for many small files as for a large one."""
    files = {f"model/{place}/{place}.bin": bytes([place]) * 4097 for place in range(60)}
    files["model/large.bin"] = os.urandom(mebibytes << 20)
    write_tiny_bundle(tmp_path / "bundle", files)
    with pytest.raises(DoesNotFitError) as refused:
        image_of(tmp_path / "bundle", tmp_path / "x.img", size=1 << 20)
    match = re.search(r"needs ([\d.,]+) MB", refused.value.message)
    assert match is not None
    needed = round(float(match[1].replace(",", "")) * 1e6 / (1 << 20)) << 20
    image = image_of(tmp_path / "bundle", tmp_path / "x.img", size=needed)
    assert 0 <= image.free_bytes < 4 << 20


@pytest.mark.parametrize(
    ("arguments", "exit_code", "found"),
    [
        (("tiny", "image:tiny"), 2, "expected a file that does not exist yet"),
        (("tiny", "image:no/such/x.img"), 2, "expected a parent folder"),
        (("tiny", "image:x.img", "--size", "big"), 2, "500MB"),
        (("tiny", "store", "--size", "1GB"), 2, "--size: expected with image:FILE"),
        (("nothing", "image:x.img"), 4, "no such folder"),
    ],
)
def test_mistakes_are_one_line(
    tiny: Path,
    tmp_path: Path,
    edgephi: Edgephi,
    arguments: tuple[str, ...],
    exit_code: int,
    found: str,
) -> None:
    done = edgephi("flash", *arguments, cwd=tmp_path)
    assert is_one_error(done, exit_code), done.stderr
    assert found in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_bundle_that_does_not_answer_makes_no_image(
    tiny: Path,
    tmp_path: Path,
    edgephi: Edgephi,
) -> None:
    done = edgephi("flash", tiny, f"image:{tmp_path / 'x.img'}")
    assert done.returncode == 5, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_mounted_it_runs_and_takes_the_next_release(
    demo_bundle: Path,
    tmp_path: Path,
    edgephi: Edgephi,
) -> None:
    image = tmp_path / "demo.img"
    done = edgephi("flash", demo_bundle, f"image:{image}", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["probe"]["tokens_per_second"] > 0
    next_release = shutil.copytree(demo_bundle, tmp_path / "next")
    manifest = json.loads((demo_bundle / "bundle.json").read_text())
    (next_release / "bundle.json").write_text(json.dumps({**manifest, "sequence": 2}))
    with mounted(image, tmp_path / "mounted") as store:
        status = json.loads(edgephi("status", store, "--json").stdout)
        assert status["generations"][0]["digest"] == sha256(demo_bundle / "bundle.json")
        done = edgephi("run", store, "hello", "--max-tokens", "4")
        assert done.returncode == 0, done.stderr
        # The same one again: nothing moves, and now it is proven by this machine.
        done = edgephi("flash", store / "current", store, "--json")
        assert done.returncode == 0, done.stderr
        proven = json.loads(done.stdout)
        assert proven["sent_bytes"] == 0
        assert proven["probe"]["tokens_per_second"] > 0
        done = edgephi("flash", next_release, store, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["sequence"] == 2
        done = edgephi("rollback", store)
        assert done.returncode == 0, done.stderr
        assert edgephi("status", store, "--scrub").returncode == 0
    subprocess.run(["/sbin/e2fsck", "-f", "-n", image], check=True, capture_output=True)
