"""Where the `tokenizer.json` of a checkpoint is: its own, or the one made of its ranks.

The second is made once in a process, in a folder that ends with it: a checkpoint's own folder is the user's,
or the hub's, and nothing is written there.
"""

import hashlib
import tempfile
from pathlib import Path

from edgephi.checkpoint.rank_file.phi_3_small import RANK_FILE, write_phi_3_small_tokenizer

TOKENIZER_JSON = "tokenizer.json"

_MADE: dict[str, tempfile.TemporaryDirectory[str]] = {}  # by the hash of the ranks


def token_source(folder: Path) -> Path:
    """The file in `folder` that says what its tokens are: `tokenizer.json`, or without one the ranks."""
    own, ranks = folder / TOKENIZER_JSON, folder / RANK_FILE
    return ranks if ranks.is_file() and not own.is_file() else own


def tokenizer_json(folder: Path) -> Path:
    """The `tokenizer.json` of the checkpoint in `folder`, which need not be there.

    Raises BadCheckpointError for ranks that no tokenizer can be made of.
    """
    source = token_source(folder)
    if source.name == TOKENIZER_JSON:
        return source
    with source.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest not in _MADE:
        made = tempfile.TemporaryDirectory(prefix="edgephi-tokenizer-")
        try:
            write_phi_3_small_tokenizer(source, Path(made.name) / TOKENIZER_JSON)
        except BaseException:
            made.cleanup()
            raise
        _MADE[digest] = made
    return Path(_MADE[digest].name) / TOKENIZER_JSON
