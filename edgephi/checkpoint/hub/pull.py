"""Getting a checkpoint of the Hugging Face hub into its local cache.

The hub's own client does the talking: endpoint, tokens, redirects, metadata and cache are its business, and
whatever it has cached for other tools serves us too. Only large files are received by ourselves.
"""

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import edgephi
from edgephi.checkpoint.checkpoint import INDEX_FILE, SINGLE_FILE, no_safetensors, parse_index, weight_files
from edgephi.checkpoint.config import load_architecture
from edgephi.checkpoint.config_keys import read_json_object
from edgephi.checkpoint.hub.errors import hub_errors
from edgephi.checkpoint.hub.large_file import download_blob
from edgephi.checkpoint.located import Located
from edgephi.checkpoint.tokenizer import TOKENIZER_FILES, read_tokenizer
from edgephi.errors import BadCheckpointError, TransportError

if TYPE_CHECKING:
    from edgephi.guards.wire_watch import WireWatch

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Descriptions and tokenizers; weights say their size before.
_LARGEST_SMALL_FILE_BYTES = 256 << 20


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
        with hub_errors(repo_id, revision), _watched_hub() as watch:
            return _download(repo_id, revision, watch, progress=progress)
    except TransportError:
        if revision is None or not _COMMIT.fullmatch(revision):
            raise
        with contextlib.suppress(TransportError):
            return _from_cache(repo_id, revision)
        raise


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
                download_blob(repo_id, commit, name, blob, watch, size=stored.size, progress=progress)
        get(name)
    return Located(repo_id, commit, folder, expected)


def _from_cache(repo_id: str, revision: str | None) -> Located:
    """The checkpoint as it lies in the local cache. Raises TransportError when it is not whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    shown = f"{repo_id} at {revision or 'its main branch'}"
    hint = "run the same command once with a network and without HF_HUB_OFFLINE"
    with hub_errors(repo_id, revision):
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
