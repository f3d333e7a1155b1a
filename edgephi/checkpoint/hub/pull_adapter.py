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


def pull_adapter(repo_id: str, *, progress: bool = False) -> Located:
    """Get the adapter `repo_id` (`owner/name`) of the hub, its main branch, as `pull` gets a checkpoint.

    Its configuration comes first, and says whether edgephi can merge it. Raises what `pull` raises.
    """
    return downloaded_or_cached(
        repo_id,
        None,
        offline=False,
        download=functools.partial(_download, repo_id, progress=progress),
        from_cache=functools.partial(_from_cache, repo_id),
    )


def _download(repo_id: str, *, progress: bool) -> Located:
    with open_repository(repo_id, None, progress=progress) as repository:
        folder = repository.get_first(CONFIG_FILE, hint=_HINT)
        read_peft_config(folder)
        repository.get_those_of(TOKENIZER_FILES)
        return Located(repo_id, repository.commit, folder, repository.get_weights([WEIGHTS_FILE], folder))


def _from_cache(repo_id: str) -> Located:
    folder = cached_folder(repo_id, None)
    if not all((folder / name).is_file() for name in (CONFIG_FILE, WEIGHTS_FILE)):
        raise not_cached(repo_id, None, found="parts")
    return Located(repo_id, folder.name, folder, cached_hashes(folder, [WEIGHTS_FILE]))
