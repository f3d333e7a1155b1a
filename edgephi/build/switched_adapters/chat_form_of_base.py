"""An adapter beside a base is asked as the base is: with its tokens, its template and where its answers end.

Trainers save a tokenizer and a template beside an adapter. Those of the base change nothing; others are for a
bundle of their own, which has the adapter merged.
"""

from edgephi.bundle.manifest import Manifest
from edgephi.bundle.switched_adapter import merge_hint
from edgephi.checkpoint.adapter.merged import StrengthenedAdapter
from edgephi.checkpoint.adapter.own_tokenizer import own_places
from edgephi.checkpoint.chat_form import published_template, token_texts
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.checkpoint.tokenizer import load_tokenizer
from edgephi.errors import NotSupportedError
from edgephi.guards.visible import visible


def check_chat_form(base: Manifest, checkpoint: Checkpoint, adapter: StrengthenedAdapter) -> None:
    """Raise NotSupportedError for an adapter that was trained with another form than the base is asked in.

    Raises what `own_places` raises, too.
    """
    found = _other_form(base, checkpoint, adapter)
    if found:
        raise NotSupportedError(
            f"{visible(adapter.located.id)}: expected the base's tokenizer and chat template, found {found}",
            hint=merge_hint(),
        )


def _other_form(base: Manifest, checkpoint: Checkpoint, adapter: StrengthenedAdapter) -> str:
    """What of an adapter's form is not the base's, in a few words; "" for nothing."""
    folder = adapter.located.folder
    places = own_places(checkpoint.folder, [adapter], checkpoint.architecture)
    if places.tokens != checkpoint.folder:
        return "tokens of its own"
    template = published_template(folder) if places.adapter else None
    if template is not None and template[1] != base.chat.template:
        return "a template of its own"
    own, plain = token_texts(folder), token_texts(checkpoint.folder)
    if own.get("bos_token") not in (None, plain.get("bos_token")):
        return f"{own['bos_token']!r} as its bos_token"
    end = own.get("eos_token")
    if end not in (None, plain.get("eos_token")):
        id_ = load_tokenizer(checkpoint.folder).token_to_id(end)
        if id_ not in base.chat.stop_token_ids:
            return f"{end!r} as its eos_token"
    return ""
