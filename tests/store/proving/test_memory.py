"""However large a bundle is, installing it takes little memory."""

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

from edgephi.bundle.chunks import CHUNK_BYTES, ChunkHashes, FileEntry, cut
from edgephi.bundle.manifest import MANIFEST_NAME, encode_manifest
from tests.bundle.tiny import tiny_manifest
from tests.cli.conftest import MAIN

MOST_BYTES = 150_000_000
HOLE = bytes(CHUNK_BYTES)


def sparse_bundle(folder: Path, chunks: int) -> Path:
    """A bundle of one large file that takes no room on the disk where it is made."""
    (folder / "model").mkdir(parents=True)
    size = chunks * CHUNK_BYTES
    with (folder / "model" / "weights").open("wb") as file:
        file.truncate(size)
    whole, pieces = hashlib.sha256(), ChunkHashes(cut(size))
    for _ in range(chunks):
        whole.update(HOLE)
        pieces.update(memoryview(HOLE))
    entry = FileEntry("model/weights", size, whole.hexdigest(), pieces.table())
    manifest = dataclasses.replace(tiny_manifest(), files=(entry,))
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return folder


def peak_bytes(bundle: Path, root: Path) -> int:
    """The most memory that `edgephi flash` took, by its own word: `wait` would count its parent too."""
    status = "pathlib.Path('/proc/self/status').read_text()"
    tell = f"import atexit, pathlib\natexit.register(lambda: print({status}))\n"
    done = subprocess.run(
        [sys.executable, "-c", tell + MAIN, "flash", bundle, root, "--elsewhere"],
        capture_output=True,
        text=True,
        check=True,
    )
    [line] = [line for line in done.stdout.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) << 10


def test_memory_does_not_grow_with_the_bundle(tmp_path: Path) -> None:
    small, large = (sparse_bundle(tmp_path / str(chunks), chunks) for chunks in (16, 256))
    taken = peak_bytes(small, tmp_path / "small"), peak_bytes(large, tmp_path / "large")
    again = peak_bytes(large, tmp_path / "large")
    assert max(*taken, again) < MOST_BYTES
    assert taken[1] - taken[0] < 10_000_000
