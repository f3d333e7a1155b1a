"""One repository of the hub at one commit, and getting its files into the hub's own cache.

The hub's own client does the talking: endpoint, tokens, redirects, metadata and cache are its business, and
whatever it has cached for other tools serves us too. Only large files are received by ourselves.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import edgephi
from edgephi.checkpoint.hub.errors import hub_errors
from edgephi.checkpoint.hub.large_file import download_blob
from edgephi.checkpoint.located import Located
from edgephi.errors import BadCheckpointError, TransportError

if TYPE_CHECKING:
    from edgephi.guards.wire_watch import WireWatch

COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Descriptions and tokenizers; weights say their size before.
_LARGEST_SMALL_FILE_BYTES = 256 << 20


@dataclass(frozen=True)
class Repository:
    """`files` are what the hub says of each by its name; `commit` is what `revision` stands for."""

    id: str
    revision: str | None
    commit: str
    files: Mapping[str, Any]
    watch: "WireWatch"
    progress: bool

    def get_first(self, name: str, *, hint: str) -> Path:
        """Get the file by which the hub's cache will know the revision; the folder of all files is returned.

        Raises BadCheckpointError with `hint` when the repository has no such file.
        """
        from huggingface_hub import constants

        if name not in self.files:
            raise BadCheckpointError(f"{self.id}: expected {name}, found none in the repository", hint=hint)
        # Asking by the branch's name leaves that name in the cache, where it can be resolved offline.
        self.get(name, at=self.revision or constants.DEFAULT_REVISION)
        return self.get(name).parent

    def get(self, name: str, *, at: str | None = None) -> Path:
        """Get one small file, at the commit or at another name for it."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

        no_bar = cast("type", functools.partial(tqdm, disable=True))  # too small to watch
        with self.watch.operation():
            return Path(
                hf_hub_download(
                    self.id, name, revision=at or self.commit, library_name="edgephi", tqdm_class=no_bar
                )
            )

    def get_those_of(self, names: Iterable[str]) -> None:
        """Get the small files among `names` that the repository has."""
        for name in names:
            if name in self.files:
                self.get(name)

    def get_weights(self, names: Iterable[str], folder: Path) -> dict[str, str]:
        """Get files of weights, and return the sha256 that the hub gives for them, which were compared.

        Raises BadCheckpointError when the repository has no such file.
        """
        expected: dict[str, str] = {}
        for name in names:
            if name not in self.files:
                raise BadCheckpointError(
                    f"{self.id}: expected the weight file {name} of its index, found none in the repository",
                    hint="tell the model's makers, or give another revision",
                )
            stored = self.files[name].lfs
            # Files that are not in large-file storage are small; the client has them whole or not at all.
            if stored is not None and _SHA256.fullmatch(stored.sha256):
                expected[name] = stored.sha256
                if not (folder / name).exists():
                    blob = folder.parent.parent / "blobs" / stored.sha256
                    download_blob(
                        self.id, self.commit, name, blob, self.watch, size=stored.size, progress=self.progress
                    )
            self.get(name)
        return expected


@contextlib.contextmanager
def open_repository(repo_id: str, revision: str | None, *, progress: bool) -> Iterator[Repository]:
    """Ask the hub for `repo_id`.

    Waits where next to nothing comes are ended, and so are answers that are too long. What the hub's client
    raises passes: `downloaded_or_cached` translates it.
    """
    from huggingface_hub import HfApi, constants, get_session

    from edgephi.guards.wire_watch import WireWatch

    with contextlib.closing(WireWatch(get_session(), longest=_LARGEST_SMALL_FILE_BYTES)) as watch:
        api = HfApi(library_name="edgephi", library_version=edgephi.__version__)
        with watch.operation():
            info = api.model_info(
                repo_id,
                revision=revision,
                files_metadata=True,
                timeout=float(constants.HF_HUB_DOWNLOAD_TIMEOUT),
            )
        commit = info.sha
        if commit is None or not COMMIT.fullmatch(commit):
            raise TransportError(
                f"{repo_id}: expected a commit from the hub, found {commit!r}",
                hint="check HF_ENDPOINT and proxies",
            )
        files = {file.rfilename: file for file in info.siblings or []}
        yield Repository(repo_id, revision, commit, files, watch, progress)


def downloaded_or_cached(
    repo_id: str,
    revision: str | None,
    *,
    offline: bool,
    download: Callable[[], Located],
    from_cache: Callable[[], Located],
) -> Located:
    """What `download` gets, or, offline and for a pinned commit when the hub is out of reach, the cache has.

    Raises what the two raise, the hub's errors translated.
    """
    from huggingface_hub import is_offline_mode

    if offline or is_offline_mode():
        return from_cache()
    try:
        with hub_errors(repo_id, revision):
            return download()
    except TransportError:
        if revision is None or not COMMIT.fullmatch(revision):
            raise
        with contextlib.suppress(TransportError):
            return from_cache()
        raise


def cached_folder(repo_id: str, revision: str | None) -> Path:
    """The folder of a repository in the local cache. Raises TransportError when there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with hub_errors(repo_id, revision):
        try:
            return Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
        except LocalEntryNotFoundError:
            raise not_cached(repo_id, revision, found="nothing") from None


def not_cached(repo_id: str, revision: str | None, *, found: str) -> TransportError:
    """The error for a repository of which the cache holds `found`."""
    return TransportError(
        f"{repo_id} at {revision or 'its main branch'}: expected{'' if found == 'nothing' else ' complete'} "
        f"in the local cache, since we are offline, found {found}",
        hint="run the same command once with a network and without HF_HUB_OFFLINE",
    )


def cached_hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The sha256 of weights by the cache: it names each large file by its hash and links to it."""
    blobs = {name: (folder / name).resolve().name for name in names}
    return {name: blob for name, blob in blobs.items() if _SHA256.fullmatch(blob)}
