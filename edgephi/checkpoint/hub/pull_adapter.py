"""Getting an adapter of the Hugging Face hub into its local cache."""

import functools

from edgephi.checkpoint.adapter.adapter_file import WEIGHTS_FILE
from edgephi.checkpoint.adapter.peft_config import CONFIG_FILE, read_peft_config
from edgephi.checkpoint.hub.repository import (
    cached_folder,
    cached_hashes,
    downloaded_or_cached,
    not_cached,
    open_repository,
)
from edgephi.checkpoint.located import Located
from edgephi.checkpoint.tokenizer import TOKENIZER_FILES

_HINT = "give a repository that holds an adapter as PEFT's save_pretrained wrote it"


def pull_adapter(repo_id: str, revision: str | None = None, *, progress: bool = False) -> Located:
    """Get the adapter `repo_id` (`owner/name`) of the hub as `pull` gets a checkpoint.

    `revision` is a branch, tag or commit (default: the main branch); what it resolves to is recorded. The
    adapter's configuration comes first, and says whether edgephi can merge it. Raises what `pull` raises.
    """
    return downloaded_or_cached(
        repo_id,
        revision,
        offline=False,
        download=functools.partial(_download, repo_id, revision, progress=progress),
        from_cache=functools.partial(_from_cache, repo_id, revision),
    )


def _download(repo_id: str, revision: str | None, *, progress: bool) -> Located:
    with open_repository(repo_id, revision, progress=progress) as repository:
        folder = repository.get_first(CONFIG_FILE, hint=_HINT)
        read_peft_config(folder)
        repository.get_those_of(TOKENIZER_FILES)
        return Located(repo_id, repository.commit, folder, repository.get_weights([WEIGHTS_FILE], folder))


def _from_cache(repo_id: str, revision: str | None) -> Located:
    folder = cached_folder(repo_id, revision)
    if not all((folder / name).is_file() for name in (CONFIG_FILE, WEIGHTS_FILE)):
        raise not_cached(repo_id, revision, found="parts")
    return Located(repo_id, folder.name, folder, cached_hashes(folder, [WEIGHTS_FILE]))
