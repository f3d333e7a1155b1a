"""Where a checkpoint comes from: the demo inside the package, a local folder, or the Hugging Face hub.

The hub's own client does the talking: endpoint, tokens, redirects, metadata and cache are its business, and
whatever it has cached for other tools serves us too. One thing it does not do: it throws a partial download
away when it gives up (huggingface-hub 1.21). Weights are gigabytes, so here they are received into a file
that stays, are continued from where it ends, and are hashed on the way.
"""

import contextlib
import errno
import functools
import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import edgephi
from edgephi.checkpoint.checkpoint import INDEX_FILE, SINGLE_FILE, no_safetensors, parse_index, weight_files
from edgephi.checkpoint.config import load_architecture
from edgephi.checkpoint.config_keys import read_json_object
from edgephi.checkpoint.tokenizer import TOKENIZER_FILES, read_tokenizer
from edgephi.commands import edgephi_command
from edgephi.errors import BadCheckpointError, DoesNotFitError, EdgephiError, TransportError, UsageError
from edgephi.processes.file_lock import holder_of, is_open_as, open_lock, wait_for_lock

if TYPE_CHECKING:
    from edgephi.guards.wire_watch import WireWatch

DEMO = "demo"
DEMO_ID = "edgephi/demo"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20
_ATTEMPTS_WITHOUT_PROGRESS = 4
# Descriptions and tokenizers; weights say their size before.
_LARGEST_SMALL_FILE_BYTES = 256 << 20
_STALLED_SECONDS = 300.0  # so long a slow disk takes to read what a cut has left
_FILE_MODE = 0o666
_HINT_AGAIN = "run the same command again: it resumes"


@dataclass(frozen=True)
class Located:
    """A checkpoint in `folder`. `revision` is the hub's commit, "local", or edgephi's version for the demo.

    `expected_sha256` maps weight files to the hashes that the hub gives for them; empty for local folders.
    """

    id: str
    revision: str
    folder: Path
    expected_sha256: Mapping[str, str] = field(default_factory=dict)


def locate(
    model: str, *, revision: str | None = None, offline: bool = False, progress: bool = False
) -> Located:
    """Find `model`: `demo`, an existing local folder, or a hub id `owner/name`, which is pulled.

    Raises UsageError for a revision of something that has none, BadCheckpointError when there is no such
    model, and what `pull` raises.
    """
    folder = Path(model)
    if model != DEMO and not (model and folder.is_dir()):
        if not _HUB_ID.fullmatch(model) or model.startswith((".", "~")):
            raise _not_a_model(model)
        return pull(model, revision, offline=offline, progress=progress)
    if revision is not None:
        raise UsageError(
            f"--revision: expected with a model of the hub, found {model!r}", hint="leave --revision out"
        )
    if model == DEMO:
        return Located(DEMO_ID, edgephi.__version__, Path(edgephi.__file__).parent / "demo")
    return Located(folder.resolve().name, "local", folder)


def pull(
    repo_id: str, revision: str | None = None, *, offline: bool = False, progress: bool = False
) -> Located:
    """Get the checkpoint `repo_id` (`owner/name`) of the hub into its local cache, checked and complete.

    `revision` is a branch, tag or commit (default: the main branch); what it resolves to is recorded. The
    config and the tokenizer come first, so that a model edgephi cannot build costs no download of weights.
    Weights are resumed and their sha256 compared with the hub's. With `offline`, or HF_HUB_OFFLINE set, or
    when a pinned commit is complete in the cache and the hub is out of reach, nothing is downloaded.
    `progress` draws bars on a terminal's standard error.

    Raises NotSupportedError, BadCheckpointError (no such model or revision, no access, broken files),
    TransportError (hub out of reach, or not in the cache) and DoesNotFitError (disk full).
    """
    from huggingface_hub import is_offline_mode

    if offline or is_offline_mode():
        return _from_cache(repo_id, revision)
    try:
        with _hub_errors(repo_id, revision), _watched_hub() as watch:
            return _download(repo_id, revision, watch, progress=progress)
    except TransportError:
        if revision is None or not _COMMIT.fullmatch(revision):
            raise
        with contextlib.suppress(TransportError):
            return _from_cache(repo_id, revision)
        raise


def _not_a_model(model: str) -> BadCheckpointError:
    if Path(model).is_file():
        return BadCheckpointError(
            f"{model}: expected a checkpoint's folder, found a file",
            hint="give the folder that holds config.json",
        )
    looks_like_path = model.startswith(("/", ".", "~")) or model.count("/") != 1
    what = "no such folder" if "/" in model and looks_like_path else "none of them"
    return BadCheckpointError(
        f"{model}: expected a recipe, a folder or a hub id owner/name, found {what}",
        hint=f"`{edgephi_command('recipes')}` lists the models; a local folder must exist",
    )


@contextlib.contextmanager
def _watched_hub() -> "Iterator[WireWatch]":
    """End what the hub's client waits for where next to nothing comes, and answers that are too long."""
    from huggingface_hub import get_session

    from edgephi.guards.wire_watch import WireWatch

    with contextlib.closing(WireWatch(get_session(), longest=_LARGEST_SMALL_FILE_BYTES)) as watch:
        yield watch


def _download(repo_id: str, revision: str | None, watch: "WireWatch", *, progress: bool) -> Located:
    """Everything of `pull` that talks to the hub; lets the client's errors pass."""
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    timeout = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    api = HfApi(library_name="edgephi", library_version=edgephi.__version__)
    with watch.operation():
        info = api.model_info(repo_id, revision=revision, files_metadata=True, timeout=timeout)
    commit = info.sha
    if commit is None or not _COMMIT.fullmatch(commit):
        raise TransportError(
            f"{repo_id}: expected a commit from the hub, found {commit!r}",
            hint="check HF_ENDPOINT and proxies",
        )
    files = {file.rfilename: file for file in info.siblings or []}
    # These files are too small to watch.
    no_bar = cast("type", functools.partial(tqdm, disable=True))

    def get(name: str, *, at: str = commit) -> Path:
        with watch.operation():
            return Path(
                hf_hub_download(repo_id, name, revision=at, library_name="edgephi", tqdm_class=no_bar)
            )

    if "config.json" not in files:
        raise BadCheckpointError(
            f"{repo_id}: expected config.json, found none in the repository",
            hint="give a repository that holds the original checkpoint, not a converted one",
        )
    # Asking by the branch's name leaves that name in the cache, where it can be resolved offline.
    get("config.json", at=revision or constants.DEFAULT_REVISION)
    folder = get("config.json").parent
    if "generation_config.json" in files:
        get("generation_config.json")
    architecture = load_architecture(folder, name=repo_id)
    for name in TOKENIZER_FILES:
        if name in files:
            get(name)
    read_tokenizer(folder, architecture)

    if SINGLE_FILE in files:
        weights = [SINGLE_FILE]
    elif INDEX_FILE in files:
        where = f"{repo_id}: {INDEX_FILE}"
        weights = sorted(
            set(parse_index(read_json_object(get(INDEX_FILE), where=where), where=where).values())
        )
    else:
        raise no_safetensors(repo_id, files)
    expected: dict[str, str] = {}
    for name in weights:
        if name not in files:
            raise BadCheckpointError(
                f"{repo_id}: expected the weight file {name} of its index, found none in the repository",
                hint="tell the model's makers, or give another revision",
            )
        stored = files[name].lfs
        # Files that are not in large-file storage are small; the client has them whole or not at all.
        if stored is not None and _SHA256.fullmatch(stored.sha256):
            expected[name] = stored.sha256
            if not (folder / name).exists():
                blob = folder.parent.parent / "blobs" / stored.sha256
                _download_blob(repo_id, commit, name, blob, watch, size=stored.size, progress=progress)
        get(name)
    return Located(repo_id, commit, folder, expected)


def _download_blob(
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
    import httpx  # the client of huggingface_hub
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    from edgephi.guards.wire_watch import allowing

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
                            f"{url}: expected {size} bytes, as the hub says, found more", hint=_HINT_AGAIN
                        )
                    file.write(chunk)
                    failures = 0
                    yield chunk
            if file.tell() < size:
                raise httpx.RemoteProtocolError("the answer ended too early")
        except (httpx.TransportError, HfHubHTTPError) as cause:
            failures += 1
            refused = isinstance(cause, HfHubHTTPError) and cause.response.status_code < 500
            refused = refused or watch.cuts > 1  # slowness is not cured by many attempts
            if refused or failures == _ATTEMPTS_WITHOUT_PROGRESS:
                raise
            time.sleep(0.5 * 2**failures)


def _from_cache(repo_id: str, revision: str | None) -> Located:
    """The checkpoint as it lies in the local cache. Raises TransportError when it is not whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    shown = f"{repo_id} at {revision or 'its main branch'}"
    hint = "run the same command once with a network and without HF_HUB_OFFLINE"
    with _hub_errors(repo_id, revision):
        try:
            folder = Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
        except LocalEntryNotFoundError:
            raise TransportError(
                f"{shown}: expected in the local cache, since we are offline, found nothing", hint=hint
            ) from None
    load_architecture(folder, name=repo_id)
    try:
        weights = weight_files(folder)
    except BadCheckpointError:
        raise TransportError(
            f"{shown}: expected complete in the local cache, since we are offline, found parts", hint=hint
        ) from None
    # The cache names each large file by its hash and links to it.
    blobs = {name: (folder / name).resolve().name for name in weights}
    expected = {name: blob for name, blob in blobs.items() if _SHA256.fullmatch(blob)}
    return Located(repo_id, folder.name, folder, expected)


@contextlib.contextmanager
def _hub_errors(repo_id: str, revision: str | None) -> Iterator[None]:
    """Translate everything that the client raises; the one place that knows its exceptions."""
    import httpx
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    try:
        yield
    except EdgephiError:
        raise
    # ValueError: an answer that is not JSON (a login page on the way), or a name that the client refuses
    except (HfHubHTTPError, EntryNotFoundError, httpx.HTTPError, OSError, ValueError) as error:
        raise _translated(error, repo_id, revision) from error


def _translated(error: Exception, repo_id: str, revision: str | None) -> EdgephiError:  # noqa: PLR0911
    from huggingface_hub import errors

    # The client wraps what went wrong on the network into "not in the cache either".
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    if isinstance(error, errors.GatedRepoError):
        return BadCheckpointError(
            f"{repo_id}: expected access to this gated model, found none",
            hint=f"accept its licence at https://huggingface.co/{repo_id}, then set HF_TOKEN to your token",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return BadCheckpointError(
            f"{repo_id}: expected revision {revision!r}, found no such revision on the hub",
            hint="give a branch, a tag or a full commit hash of that repository",
        )
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return BadCheckpointError(
            f"{repo_id}: expected a model on the hub, found none of that name",
            hint="check the spelling; a private model also needs HF_TOKEN",
        )
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return BadCheckpointError(
                f"{repo_id}: expected access, found HTTP status {status} from the hub",
                hint="check that HF_TOKEN holds a valid token with access to this model",
            )
        if status == 404:
            return BadCheckpointError(f"{repo_id}: {reason}", hint="give another revision")
        return TransportError(f"{repo_id}: expected the hub, found HTTP status {status}", hint=_HINT_AGAIN)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DoesNotFitError(
            f"{repo_id}: expected room for its download, found the disk full",
            hint="free some space, or set HF_HOME to a bigger disk; the same command then resumes",
        )
    return TransportError(f"{repo_id}: expected the hub, found {reason}", hint=_HINT_AGAIN)
