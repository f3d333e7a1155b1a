"""Phi-3-small's tokenizer: the ranks of OpenAI's cl100k, and names of the ids behind them.

The model is published with the ranks and a class that needs tiktoken; there is no `tokenizer.json`.

Sources: `tokenization_phi3_small.py` of the published models, and `tiktoken_ext/openai_public.py`.
"""

from pathlib import Path

from edgephi.checkpoint.rank_file.byte_pairs import write_tokenizer
from edgephi.checkpoint.rank_file.ranks import read_ranks

RANK_FILE = "cl100k_base.tiktoken"

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""What cuts a text into words.

Newer releases of tiktoken write it otherwise, and keep white space at the end of a text in one word: no token
of cl100k goes on behind a line break with other white space, so the tokens are the same.
"""

RANKS = 100_256
"""Tokens in the file. The ids from here on have names only."""

_ROWS = 100_352
# The ids with a use, and those that cl100k had named for other models.
_USED = {
    "<|endoftext|>": 100_257,
    "<|system|>": 100_261,
    "<|user|>": 100_262,
    "<|assistant|>": 100_263,
    "<|end|>": 100_266,
}
_OTHERS = {
    "<|fim_prefix|>": 100_258,
    "<|fim_middle|>": 100_259,
    "<|fim_suffix|>": 100_260,
    "<|endofprompt|>": 100_276,
}
# `<|dummy_id_N|>`, as they are numbered: one by one, the first three not in the order of their ids.
_DUMMIES = (100_264, 100_265, 100_256, *range(100_267, 100_276), *range(100_277, _ROWS))

SPECIAL_TOKENS = {**_USED, **_OTHERS, **{f"<|dummy_id_{n}|>": id_ for n, id_ in enumerate(_DUMMIES)}}
"""The name of every id from `RANKS` on."""

UNUSED_TOKEN_IDS = tuple(sorted((*_OTHERS.values(), *_DUMMIES)))
"""The 91 ids that no text of the training had. The model's code never lets one of them be chosen."""


def unused_token_ids(vocabulary_size: int) -> tuple[int, ...]:
    """Those of the unused ids that a model with so many rows in its embedding has, ascending."""
    return tuple(id_ for id_ in UNUSED_TOKEN_IDS if id_ < vocabulary_size)


def write_phi_3_small_tokenizer(ranks: Path, file: Path) -> None:
    """Write the `tokenizer.json` of Phi-3-small, whose ranks are in the file `ranks`.

    Raises BadCheckpointError for a file that does not hold them.
    """
    write_tokenizer(file, read_ranks(ranks, RANKS), SPECIAL_TOKENS, PATTERN)
