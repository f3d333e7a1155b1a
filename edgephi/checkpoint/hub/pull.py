"""Getting a checkpoint of the Hugging Face hub into its local cache."""

import functools
from collections.abc import Callable

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.config import load_architecture
from edgephi.checkpoint.config_keys import read_json_object
from edgephi.checkpoint.hub.repository import (
    cached_folder,
    cached_hashes,
    downloaded_or_cached,
    not_cached,
    open_repository,
)
from edgephi.checkpoint.images.preprocessor import PREPROCESSOR_FILE
from edgephi.checkpoint.located import Located
from edgephi.checkpoint.tokenizer import PUBLISHED_FILES, fitting_tokenizer
from edgephi.checkpoint.weights.foreign import other_kind
from edgephi.checkpoint.weights.weight_files import (
    INDEX_FILE,
    SINGLE_FILE,
    no_safetensors,
    parse_index,
    weight_files,
)
from edgephi.errors import BadCheckpointError

Check = Callable[[Architecture], object]
"""Looks at a model's architecture, and raises when nobody wants its weights."""


def pull(
    repo_id: str,
    revision: str | None = None,
    *,
    offline: bool = False,
    progress: bool = False,
    check: Check = lambda _: None,
) -> Located:
    """Get the checkpoint `repo_id` (`owner/name`) of the hub into its local cache, checked and complete.

    `revision` is a branch, tag or commit (default: the main branch); what it resolves to is recorded. The
    config and the tokenizer come first, so that a model edgephi cannot build costs no download of weights.
    Weights are resumed and their sha256 compared with the hub's. With `offline`, or HF_HUB_OFFLINE set, or
    when a pinned commit is complete in the cache and the hub is out of reach, nothing is downloaded.
    `progress` draws bars on a terminal's standard error. What `check` raises for the architecture comes
    before any weights, too.

    Raises NotSupportedError, BadCheckpointError (no such model or revision, no access, broken files),
    TransportError (hub out of reach, or not in the cache) and DoesNotFitError (disk full).
    """
    return downloaded_or_cached(
        repo_id,
        revision,
        offline=offline,
        download=functools.partial(_download, repo_id, revision, progress=progress, check=check),
        from_cache=functools.partial(_from_cache, repo_id, revision),
    )


def _download(repo_id: str, revision: str | None, *, progress: bool, check: Check) -> Located:
    with open_repository(repo_id, revision, progress=progress) as repository:
        other = None if "config.json" in repository.files else other_kind(repo_id, repository.files)
        if other is not None:
            raise other
        folder = repository.get_first(
            "config.json", hint="give a repository that holds the original checkpoint, not a converted one"
        )
        repository.get_those_of(["generation_config.json", PREPROCESSOR_FILE])
        architecture = load_architecture(folder, name=repo_id)
        check(architecture)
        repository.get_those_of(PUBLISHED_FILES)
        fitting_tokenizer(folder, architecture)  # a chat template may come from a recipe or an adapter
        if SINGLE_FILE in repository.files:
            weights = [SINGLE_FILE]
        elif INDEX_FILE in repository.files:
            where = f"{repo_id}: {INDEX_FILE}"
            index = read_json_object(repository.get(INDEX_FILE), where=where)
            weights = sorted(set(parse_index(index, where=where).values()))
        else:
            raise no_safetensors(repo_id, repository.files)
        return Located(repo_id, repository.commit, folder, repository.get_weights(weights, folder))


def _from_cache(repo_id: str, revision: str | None) -> Located:
    """The checkpoint as it lies in the local cache. Raises TransportError when it is not whole."""
    folder = cached_folder(repo_id, revision)
    load_architecture(folder, name=repo_id)
    try:
        weights = weight_files(folder)
    except BadCheckpointError:
        raise not_cached(repo_id, revision, found="parts") from None
    return Located(repo_id, folder.name, folder, cached_hashes(folder, weights))
