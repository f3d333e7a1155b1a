"""The chat formats of the Phi-3 family: how each branch writes a conversation and ends an answer.

Standard library only, because both the builder and the device read it.

Sources: the models' published `generation_config.json` and `tokenizer_config.json`.
"""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class ChatFormat:
    """How one branch of the family writes a conversation.

    `template` is Jinja and, unlike the one some checkpoints publish, never drops the system message. A system
    message of Phi-4-mini may have `tools`: a text, the JSON of their schemas.
    `stop_tokens` are the special tokens that end an answer; those in the vocabulary all become stop ids.
    """

    name: str
    template: str
    stop_tokens: tuple[str, ...]


PHI_3_CHAT = ChatFormat(
    name="phi-3",
    template=(
        "{% for message in messages %}"
        "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
    ),
    stop_tokens=("<|endoftext|>", "<|assistant|>", "<|end|>"),
)
PHI_3_SMALL_CHAT = ChatFormat(
    name="phi-3-small",
    template="{{ '<|endoftext|>' }}" + PHI_3_CHAT.template,
    stop_tokens=("<|endoftext|>", "<|end|>"),
)
PHI_4_MINI_CHAT = ChatFormat(
    name="phi-4-mini",
    template=(
        "{% for message in messages %}"
        "{{ '<|' + message['role'] + '|>' + message['content'] }}"
        "{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}"
        "{{ '<|tool|>' + message['tools'] + '<|/tool|>' }}{% endif %}"
        "{{ '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    ),
    stop_tokens=("<|endoftext|>", "<|assistant|>", "<|end|>"),
)
PHI_4_CHAT = ChatFormat(
    name="phi-4",
    template=(
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
    ),
    stop_tokens=("<|endoftext|>", "<|im_end|>"),
)

CHAT_FORMATS = (PHI_3_CHAT, PHI_3_SMALL_CHAT, PHI_4_MINI_CHAT, PHI_4_CHAT)
"""All that edgephi itself writes into bundles."""

# These share Phi-3's token names but write something else around them; their vocabularies tell them apart.
# Phi-3-small's begins where its texts did in training.
_BY_VOCABULARY = {100_352: PHI_3_SMALL_CHAT, 200_064: PHI_4_MINI_CHAT}


def chat_format(vocabulary_size: int, special_tokens: Collection[str]) -> ChatFormat | None:
    """The chat format that goes with a tokenizer, or None when it is not one of the family's."""
    if {"<|im_start|>", "<|im_sep|>", "<|im_end|>"} <= set(special_tokens):
        return PHI_4_CHAT
    if {"<|user|>", "<|assistant|>", "<|end|>"} <= set(special_tokens):
        return _BY_VOCABULARY.get(vocabulary_size, PHI_3_CHAT)
    return None
