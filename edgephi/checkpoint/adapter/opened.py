"""A checkpoint opened with adapters: their changes are in its weights, and it speaks as they were trained."""

from collections.abc import Sequence

from edgephi.checkpoint.adapter.merged import StrengthenedAdapter, merged
from edgephi.checkpoint.adapter.own_tokenizer import own_places
from edgephi.checkpoint.checkpoint import Checkpoint, open_checkpoint
from edgephi.checkpoint.config import load_architecture
from edgephi.checkpoint.located import Located
from edgephi.declared.recipe import AS_CHECKPOINT, ChatSettings


def open_with_adapters(
    located: Located, adapters: Sequence[StrengthenedAdapter] = (), chat: ChatSettings = AS_CHECKPOINT
) -> Checkpoint:
    """The checkpoint that was `located` with all adapters, one after the other; loads no weights.

    `chat` is how a recipe wants conversations written. Raises what `open_checkpoint`, `merged` and
    `own_places` raise.
    """
    architecture = load_architecture(located.folder)
    places = own_places(located.folder, adapters, architecture, chat)
    checkpoint = open_checkpoint(
        located.folder, id=located.id, revision=located.revision, chat=chat, places=places
    )
    return merged(checkpoint, adapters)
