"""Receiving one large file of the hub into its client's cache.

The client throws a partial download away when it gives up (huggingface-hub 1.21 and 2.4). Weights are
gigabytes, so here they are received into a file that stays, are continued from where it ends, and are hashed
on the way.
"""

import contextlib
import functools
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import edgephi
from edgephi.checkpoint.hub.errors import HINT_AGAIN
from edgephi.errors import TransportError
from edgephi.processes.file_lock import holder_of, is_open_as, open_lock, wait_for_lock

if TYPE_CHECKING:
    from edgephi.guards.wire_watch import WireWatch

_CHUNK_BYTES = 1 << 20
_ATTEMPTS_WITHOUT_PROGRESS = 4
_STALLED_SECONDS = 300.0  # so long a slow disk takes to read what a cut has left
_FILE_MODE = 0o666


def download_blob(
    repo_id: str, commit: str, name: str, blob: Path, watch: "WireWatch", *, size: int, progress: bool
) -> None:
    """Receive one large file into the client's cache as `blob`, whose name is its sha256, resuming.

    The client finds the blob there and links it into the snapshot. Until it is complete and its hash is
    right it lies beside under another name, locked against a second edgephi.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = blob.with_name(f"{blob.name}.edgephi.incomplete")
    with (
        _locked(partial, name=f"{repo_id}: {name}", progress=progress),
        partial.open("a+b", buffering=0) as file,
    ):
        if blob.exists():  # another edgephi finished it while we waited
            partial.unlink(missing_ok=True)
            return
        received = hashlib.sha256()
        file.seek(0)
        while chunk := file.read(_CHUNK_BYTES):
            received.update(chunk)
        start = min(file.tell(), size)
        url = hf_hub_url(repo_id, name, revision=commit)
        with tqdm(  # type: ignore[no-untyped-call]
            desc=name,
            total=size,
            initial=start,
            unit="B",
            unit_scale=True,
            disable=None if progress else True,
        ) as bar:
            for chunk in _receive(url, file, watch, size=size):
                if chunk is None:
                    received = hashlib.sha256()
                    bar.reset(total=size)
                else:
                    received.update(chunk)
                    bar.update(len(chunk))
        if received.hexdigest() != blob.name:
            partial.unlink()
            raise TransportError(
                f"{repo_id}: {name}: expected sha256 {blob.name}, found {received.hexdigest()}",
                hint="the download was damaged on its way: run the same command again",
            )
        partial.chmod(blob.parent.stat().st_mode & _FILE_MODE)  # as readable as what lies beside
        os.fsync(file)
        partial.rename(blob)


@contextlib.contextmanager
def _locked(partial: Path, *, name: str, progress: bool) -> Iterator[None]:
    """Hold a download for a block; while another process receives it, wait for as long as that gets on."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    @contextlib.contextmanager
    def said(title: str, _size: int) -> Iterator[Callable[[int], None]]:
        if progress:
            tqdm.write(f"{name}: {title}", file=sys.stderr)
        yield lambda _units: None

    is_held = False
    while not is_held:
        descriptor = open_lock(partial)
        try:
            received = functools.partial(_size, descriptor)
            if not wait_for_lock(descriptor, _STALLED_SECONDS, step=said, progress=received):
                holder = holder_of(descriptor) or "another process"
                raise TransportError(
                    f"{name}: {holder} holds {partial}, "
                    f"and has received nothing for {_STALLED_SECONDS:.0f} s",
                    hint="end that process, then run the same command again",
                )
            is_held = is_open_as(descriptor, partial)  # else its holder has finished or removed it
            if is_held:
                yield
        finally:
            os.close(descriptor)


def _size(descriptor: int) -> int:
    return os.fstat(descriptor).st_size


def _receive(url: str, file: BinaryIO, watch: "WireWatch", *, size: int) -> Iterator[bytes | None]:
    """Append to `file` what is missing of its `size` bytes, and yield it; None when it starts from zero.

    A dropped connection is taken up again a few times, with growing pauses, as long as bytes arrive.
    """
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    from edgephi.guards.wire_watch import allowing, http_library

    library = http_library(get_session())
    headers = build_hf_headers(library_name="edgephi", library_version=edgephi.__version__)
    failures = 0
    while (start := file.seek(0, os.SEEK_END)) != size:
        if start > size:  # it was another file's
            file.truncate(0)
            yield None
            continue
        asked = {**headers, "Accept-Encoding": "identity", "Range": f"bytes={start}-"}
        try:
            with (
                watch.operation(),
                get_session().stream(
                    "GET",
                    url,
                    headers=asked,
                    timeout=float(constants.HF_HUB_DOWNLOAD_TIMEOUT),
                    extensions=allowing(size=None),
                ) as response,
            ):
                hf_raise_for_status(response)
                arrived = start
                if start and response.status_code != 206:  # the whole file, whatever we asked for
                    file.truncate(0)
                    arrived = 0
                    yield None
                for chunk in response.iter_bytes():
                    arrived += len(chunk)
                    if arrived > size:
                        raise TransportError(
                            f"{url}: expected {size} bytes, as the hub says, found more", hint=HINT_AGAIN
                        )
                    file.write(chunk)
                    failures = 0
                    yield chunk
            if file.tell() < size:
                raise library.RemoteProtocolError("the answer ended too early")
        except (library.TransportError, HfHubHTTPError) as cause:
            failures += 1
            refused = isinstance(cause, HfHubHTTPError) and cause.response.status_code < 500
            refused = refused or watch.cuts > 1  # slowness is not cured by many attempts
            if refused or failures == _ATTEMPTS_WITHOUT_PROGRESS:
                raise
            time.sleep(0.5 * 2**failures)
