"""The tokenizer and the chat template that an adapter was trained with, where they are not the checkpoint's.

Trainers save both beside an adapter: `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`, as
`save_pretrained` of transformers writes them. What a fine-tune was trained with is what it is to be asked
with, so each of them counts before the checkpoint's, and that of a later adapter before an earlier one's.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgephi.checkpoint.adapter.merged import StrengthenedAdapter
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.chat_form import CONFIG_FILE, TokenizerPlaces, published_template, token_texts
from edgephi.checkpoint.config_keys import read_json_object
from edgephi.checkpoint.tokenizer import TokenizerFacts, load_tokenizer, read_tokenizer_at
from edgephi.declared.recipe import AS_CHECKPOINT, ChatSettings
from edgephi.errors import BadCheckpointError
from edgephi.guards.visible import visible

_TOKENS_FILE = "tokenizer.json"
_ADDED_FILE = "added_tokens.json"
_OTHER_BASE = "give the adapter with the checkpoint that it was trained on"
_OTHER_TOKENS = "give one of the adapters alone: they were trained with different tokens"
_MERGE = "merge it where it was trained, and build the checkpoint that results"
_MOST_SHOWN = 3
_ROLES = ("bos_token", "eos_token")  # those that change a prompt, or where an answer ends


@dataclass(frozen=True)
class _Tokens:
    """What a `tokenizer.json` says of ids: the hash of all that makes them, and the tokens by id."""

    sha256: str
    by_id: dict[int, str]
    added: frozenset[int]


def read_own_tokenizer(
    folder: Path,
    adapters: Sequence[StrengthenedAdapter],
    architecture: Architecture,
    asked: ChatSettings = AS_CHECKPOINT,
) -> TokenizerFacts:
    """The tokenizer of the checkpoint in `folder` with adapters; see `own_places` and `read_tokenizer_at`."""
    return read_tokenizer_at(own_places(folder, adapters, architecture, asked), architecture, asked)


def own_places(
    folder: Path,
    adapters: Sequence[StrengthenedAdapter],
    architecture: Architecture,
    asked: ChatSettings = AS_CHECKPOINT,
) -> TokenizerPlaces:
    """Where the tokenizer of the checkpoint in `folder` is, with what adapters bring of their own.

    What is the same as the checkpoint's is not the adapter's own. `asked` is how a recipe wants conversations
    written: its template comes before all of them.

    Raises BadCheckpointError, naming the adapter, for a tokenizer that does not give the checkpoint's tokens
    their ids, or has more than `architecture` has rows for.
    """
    places = TokenizerPlaces(folder, folder, folder)
    for adapter in adapters:
        places = _with(places, folder, adapter, architecture, asked)
    return places


def _with(
    places: TokenizerPlaces,
    plain: Path,
    adapter: StrengthenedAdapter,
    architecture: Architecture,
    asked: ChatSettings,
) -> TokenizerPlaces:
    folder, name = adapter.located.folder, visible(adapter.located.id)
    found, remarks = places, []
    if not (folder / _TOKENS_FILE).is_file():
        _check_no_more_tokens(folder, places.tokens, name)
    elif not _same_file(folder / _TOKENS_FILE, plain / _TOKENS_FILE):
        own, base = _read(folder), _read(plain)
        if own.sha256 != base.sha256:
            before = base if places.tokens == plain else _read(places.tokens)
            remarks.append(_held_against(own, before, base, architecture.vocabulary_size, name))
            found = replace(found, tokens=folder)
    template = None if asked.template else published_template(folder)
    if template is not None and template[1] != _template(plain):
        found = replace(found, template=folder, adapter=name)
    texts, plain_texts = token_texts(folder), token_texts(plain)
    others = {role: texts[role] for role in _ROLES if texts.get(role) not in (None, plain_texts.get(role))}
    remarks += [f"adapter {name} has {text!r} as its {role}" for role, text in others.items()]
    if (folder / CONFIG_FILE).is_file() and (found != places or others):
        found = replace(found, config=folder)
    return replace(found, remarks=(*places.remarks, *remarks))


def _template(folder: Path) -> str | None:
    """The text of the checkpoint's own template; what is none is not complained of unless it is used."""
    try:
        found = published_template(folder)
    except BadCheckpointError:
        return None
    return None if found is None else found[1]


def _same_file(one: Path, other: Path) -> bool:
    if not other.is_file():
        return False
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()


def _read(folder: Path) -> _Tokens:
    from tokenizers.processors import Sequence as Processors

    tokenizer = load_tokenizer(folder)
    # What it would put around a text is no matter: nothing is put there.
    tokenizer.post_processor = Processors([])
    by_id = {id_: text for text, id_ in tokenizer.get_vocab(with_added_tokens=True).items()}
    added = {id_: token.content for id_, token in tokenizer.get_added_tokens_decoder().items()}
    sha256 = hashlib.sha256(tokenizer.to_str().encode(errors="surrogatepass")).hexdigest()
    return _Tokens(sha256, {**by_id, **added}, frozenset(added))


def _held_against(own: _Tokens, before: _Tokens, base: _Tokens, rows: int, name: str) -> str:
    """What is to be said of an adapter's own tokens, in which all that there were `before` keep their ids.

    An id is all that a model knows of a token, so one that `base` has for control may get a new name.
    """
    renamed = []
    texts, texts_before = set(own.by_id.values()), set(before.by_id.values())
    for id_, text in sorted(before.by_id.items()):
        now = own.by_id.get(id_)
        if now == text:
            continue
        is_bases, is_added = text == base.by_id.get(id_), id_ in base.added & own.added
        if now is None or not (is_bases and is_added) or text in texts or now in texts_before:
            raise BadCheckpointError(
                f"adapter {name}: {_TOKENS_FILE}: expected {text!r} as token {id_}, "
                f"found {'none' if now is None else repr(now)}",
                hint=_OTHER_BASE if is_bases else _OTHER_TOKENS,
            )
        renamed.append(f"{now!r} for {text!r}")
    more = sorted(own.by_id.keys() - before.by_id.keys())
    if more and more[-1] >= rows:
        raise BadCheckpointError(
            f"adapter {name}: {_TOKENS_FILE}: expected tokens for the {rows:,} rows of the embedding, "
            f"found {own.by_id[more[-1]]!r} as token {more[-1]}",
            hint=_MERGE,
        )
    parts = [f"that of adapter {name}"]
    if not more and not renamed:
        parts.append("with the same tokens and other rules for texts")
    if more:
        tokens = "token" if len(more) == 1 else "tokens"
        parts.append(f"{len(more):,} {tokens} more ({_listed([own.by_id[id_] for id_ in more])})")
    if renamed:
        parts.append(_listed(renamed, shown=str))
    return ", ".join(parts)


def _check_no_more_tokens(folder: Path, tokens: Path, name: str) -> None:
    """Raise BadCheckpointError when files beside a missing `tokenizer.json` name tokens of its own."""
    named = dict(_named_tokens(folder))
    if not named:
        return
    by_id = _read(tokens).by_id
    for id_, text in sorted(named.items()):
        if by_id.get(id_) != text:
            raise BadCheckpointError(
                f"adapter {name}: expected {_TOKENS_FILE}, since token {id_} of the adapter is {text!r}, "
                "found none",
                hint="save its tokenizer again with AutoTokenizer of transformers, which writes that file",
            )


def _named_tokens(folder: Path) -> Iterator[tuple[int, str]]:
    """The ids and texts that the configuration of a tokenizer and `added_tokens.json` name."""
    if (folder / CONFIG_FILE).is_file():
        config = read_json_object(folder / CONFIG_FILE, where=str(folder / CONFIG_FILE))
        decoder: Any = config.get("added_tokens_decoder")
        for id_, token in decoder.items() if isinstance(decoder, dict) else ():
            text = token.get("content") if isinstance(token, dict) else token
            if id_.isdecimal() and isinstance(text, str):
                yield int(id_), text
    if (folder / _ADDED_FILE).is_file():
        added = read_json_object(folder / _ADDED_FILE, where=str(folder / _ADDED_FILE))
        yield from ((id_, text) for text, id_ in added.items() if type(id_) is int)


def _listed(texts: Sequence[str], *, shown: Any = repr) -> str:
    """The first few of these."""
    more = len(texts) - _MOST_SHOWN
    return ", ".join([*map(shown, texts[:_MOST_SHOWN]), *([f"and {more:,} more"] if more > 0 else [])])
