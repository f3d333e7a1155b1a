"""What a checkpoint's tokenizer says: its special tokens, its chat form and the ids that end an answer.

The real parser (the `tokenizers` library) reads the file, so that what passes here loads on the device too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.chat_form import (
    CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    TEMPLATE_FILE,
    ChatForm,
    TokenizerPlaces,
    read_chat_form,
)
from edgephi.checkpoint.git_lfs import POINTER_START, check_no_pointer
from edgephi.checkpoint.rank_file.converted import TOKENIZER_JSON, token_source, tokenizer_json
from edgephi.checkpoint.rank_file.phi_3_small import RANK_FILE
from edgephi.commands import shell_command
from edgephi.declared.recipe import AS_CHECKPOINT, ChatSettings
from edgephi.errors import BadCheckpointError, BadDeclarationError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILES = (
    TOKENIZER_JSON,
    CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    "added_tokens.json",
    TEMPLATE_FILE,
)
"""The files a tokenizer may have; the first one is required, or made of the file of ranks."""
PUBLISHED_FILES = (*TOKENIZER_FILES, RANK_FILE)
"""The files of a checkpoint that its tokenizer is read from, where it has them."""

TokenizerKind = Literal["sentencepiece", "byte-level"]

_OLDER_FORMS = ("tokenizer.model", "spiece.model", "vocab.json")
_HINT = "copy tokenizer.json and tokenizer_config.json from the model that these weights come from"


@dataclass(frozen=True)
class TokenizerFacts:
    """A checked tokenizer. `vocabulary_size` is its highest id plus one, at most the model's.

    `special_tokens` maps every token that was added to the trained vocabulary to its id, whether or not the
    file flags it as special; `control_ids` are those that it does. `stop_token_ids`, ascending, end an
    answer. `files` are those there are, by the names that engines know them by, each at one of the `places`;
    a `tokenizer.json` that was made of a checkpoint's ranks is elsewhere.
    """

    vocabulary_size: int
    special_tokens: Mapping[str, int]
    control_ids: frozenset[int]
    chat: ChatForm
    stop_token_ids: tuple[int, ...]
    places: TokenizerPlaces
    files: Mapping[str, Path]
    kind: TokenizerKind

    @property
    def folder(self) -> Path:
        """The folder of `tokenizer.json`."""
        return self.files[TOKENIZER_JSON].parent

    @property
    def is_made_of_ranks(self) -> bool:
        """Whether `tokenizer.json` is not the checkpoint's own, which has ranks in its place."""
        return token_source(self.places.tokens) != self.files[TOKENIZER_JSON]

    @property
    def read(self) -> tuple[Path, ...]:
        """All files of it that are somebody's own: a configuration too from which only the template is."""
        template = self.places.template / CONFIG_FILE
        more = [] if TEMPLATE_FILE in self.files or not template.is_file() else [template]
        files = {**self.files, TOKENIZER_JSON: token_source(self.places.tokens)}
        return tuple(dict.fromkeys([*files.values(), *more]))


def read_tokenizer(
    folder: Path, architecture: Architecture, asked: ChatSettings = AS_CHECKPOINT
) -> TokenizerFacts:
    """Read the tokenizer of the checkpoint in `folder`, all of it; see `read_tokenizer_at`."""
    return read_tokenizer_at(TokenizerPlaces(folder, folder, folder), architecture, asked)


def read_tokenizer_at(
    places: TokenizerPlaces, architecture: Architecture, asked: ChatSettings = AS_CHECKPOINT
) -> TokenizerFacts:
    """Read and check a tokenizer against the model it belongs to. Raises BadCheckpointError.

    `asked` is how a recipe wants conversations written; BadDeclarationError for a stop text that is no token.

    An answer ends at every token that the configs of model or tokenizer or the chat form name: exports that
    keep only one of them run past the end of the answer.
    """
    tokenizer = fitting_tokenizer(places.tokens, architecture)
    ids = tokenizer.get_vocab(with_added_tokens=True)
    special_tokens = {token.content: id_ for id_, token in tokenizer.get_added_tokens_decoder().items()}
    chat = read_chat_form(places, architecture.vocabulary_size, special_tokens, asked)
    for text in asked.stop:
        if text not in ids:
            raise BadDeclarationError(
                f"recipe: chat: stop: expected tokens of the checkpoint's tokenizer, found {text!r}",
                hint="an answer ends at tokens; `tokenizer.json` lists them under added_tokens",
            )
    stops = {ids[token] for token in chat.stop_texts}
    stops = stops.union(architecture.eos_token_ids)
    if not stops:
        raise BadCheckpointError(
            f"{places.config / CONFIG_FILE}: expected a token that ends an answer (eos_token), found none",
            hint=_HINT,
        )
    return TokenizerFacts(
        vocabulary_size=max(ids.values()) + 1,
        special_tokens=special_tokens,
        control_ids=frozenset(
            id_ for id_, token in tokenizer.get_added_tokens_decoder().items() if token.special
        ),
        chat=chat,
        stop_token_ids=tuple(sorted(stops)),
        places=places,
        files=_files(places),
        kind="byte-level" if "ByteLevel(" in str(tokenizer.pre_tokenizer) else "sentencepiece",
    )


def fitting_tokenizer(folder: Path, architecture: Architecture) -> "Tokenizer":
    """The tokenizer in `folder`, whose tokens are the model's. Raises BadCheckpointError."""
    tokenizer, source = load_tokenizer(folder), token_source(folder)
    size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    if not 0 < size <= architecture.vocabulary_size:
        raise BadCheckpointError(
            f"{source}: expected ids below vocab_size = {architecture.vocabulary_size}, "
            f"found ids up to {size - 1}",
            hint=_HINT,
        )
    for id_ in architecture.eos_token_ids:
        if tokenizer.id_to_token(id_) is None:
            raise BadCheckpointError(
                f"{source}: expected a token for eos_token_id {id_}, found none",
                hint=_HINT,
            )
    return tokenizer


def _files(places: TokenizerPlaces) -> dict[str, Path]:
    folders = {
        CONFIG_FILE: places.config,
        SPECIAL_TOKENS_FILE: places.config,
        TEMPLATE_FILE: places.template,
    }
    files = {name: folders.get(name, places.tokens) / name for name in TOKENIZER_FILES}
    files[TOKENIZER_JSON] = tokenizer_json(places.tokens)
    return {name: file for name, file in files.items() if file.is_file()}


def encode(folder: Path, text: str) -> list[int]:
    """The token ids of `text` by the tokenizer in `folder`, with nothing put before or after it."""
    return encoder(folder)(text)


def encoder(folder: Path) -> Callable[[str], list[int]]:
    """What turns text into token ids as `encode` does, with the tokenizer in `folder` read once."""
    tokenizer = load_tokenizer(folder)

    def ids_of(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    return ids_of


def _missing(file: Path) -> BadCheckpointError:
    """The error for a checkpoint without `tokenizer.json`, whose tokenizer may be there in an older form."""
    folder = file.parent
    older = next((name for name in _OLDER_FORMS if (folder / name).is_file()), None)
    if older is None:
        return BadCheckpointError(f"{file}: expected the tokenizer, found no such file", hint=_HINT)
    with (folder / older).open("rb") as start:
        check_no_pointer(start.read(len(POINTER_START)), str(folder / older), "a tokenizer")
    place = repr(str(folder))
    convert = f"AutoTokenizer.from_pretrained({place}).save_pretrained({place})"
    program = f"from transformers import AutoTokenizer; {convert}"
    return BadCheckpointError(
        f"{file}: expected the tokenizer, found {older} only",
        hint=f"`{shell_command('python', '-c', program)}` writes it, with transformers and sentencepiece",
    )


def load_tokenizer(folder: Path) -> "Tokenizer":
    """The tokenizer in `folder`, or that of its ranks; it neither cuts nor fills texts.

    Raises BadCheckpointError.
    """
    from tokenizers import Tokenizer

    file = tokenizer_json(folder)
    if not file.is_file():
        raise _missing(file)
    with file.open("rb") as start:
        check_no_pointer(start.read(len(POINTER_START)), str(file), "a tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as cause:
        reason = str(cause).partition("\n")[0]
        raise BadCheckpointError(f"{file}: expected a tokenizer, found {reason}", hint=_HINT) from None
    # A file may ask for cut or padded sequences; neither has a place in a conversation.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
