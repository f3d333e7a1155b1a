"""All that is true of the Phi-3 family: its members, stop tokens, chat formats and RoPE rules.

Standard library only, because both the builder and the device read it.

Sources: the models' published `config.json`, `generation_config.json` and `tokenizer_config.json`;
LongRoPE (Ding et al., 2024, arXiv:2402.13753) as `transformers` computes it for `Phi3ForCausalLM`.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

MODEL_TYPE = "phi3"

NOT_YET_SUPPORTED: dict[str, str] = {
    "phi3small": "Phi-3-small (block-sparse attention, GEGLU)",
    "phi3_v": "Phi-3-vision and Phi-3.5-vision (image encoder)",
    "phimoe": "Phi-3.5-MoE (mixture of experts)",
    "phi4mm": "Phi-4-multimodal (speech and image encoders)",
    "phi4_multimodal": "Phi-4-multimodal (speech and image encoders)",
}
"""Family members that are refused by name, keyed by their `model_type`."""


@dataclass(frozen=True)
class ChatFormat:
    """How one branch of the family writes a conversation.

    `template` is Jinja and, unlike the one some checkpoints publish, never drops the system message.
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
PHI_4_MINI_CHAT = ChatFormat(
    name="phi-4-mini",
    template=(
        "{% for message in messages %}"
        "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
        "{% endfor %}"
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

CHAT_FORMATS = (PHI_3_CHAT, PHI_4_MINI_CHAT, PHI_4_CHAT)
"""All that edgephi itself writes into bundles."""

# Phi-4-mini shares Phi-3's token names but writes no line breaks between them; its vocabulary tells it apart.
_PHI_4_MINI_VOCABULARY = 200_064


def chat_format(vocabulary_size: int, special_tokens: Collection[str]) -> ChatFormat | None:
    """The chat format that goes with a tokenizer, or None when it is not one of the family's."""
    if {"<|im_start|>", "<|im_sep|>", "<|im_end|>"} <= set(special_tokens):
        return PHI_4_CHAT
    if {"<|user|>", "<|assistant|>", "<|end|>"} <= set(special_tokens):
        return PHI_4_MINI_CHAT if vocabulary_size == _PHI_4_MINI_VOCABULARY else PHI_3_CHAT
    return None


@dataclass(frozen=True)
class RotaryEmbedding:
    """RoPE as one checkpoint declares it.

    `size` is the number of rotated dimensions of a head (less than the head size when partial). A LongRoPE
    checkpoint has one factor for each of the `size // 2` frequencies, short and long; otherwise both are
    None. Sequences of more than `original_context` tokens use the long factors, for all their positions.
    """

    size: int
    theta: float
    original_context: int
    context: int
    short_factor: tuple[float, ...] | None = None
    long_factor: tuple[float, ...] | None = None
    attention_factor: float | None = None

    def uses_long_factors(self, total_length: int) -> bool:
        """Whether a sequence of `total_length` tokens is rotated by the long factors."""
        return self.long_factor is not None and total_length > self.original_context

    def inverse_frequencies(self, *, long: bool) -> list[float]:
        """The `size // 2` angular frequencies in radians per position."""
        factors = self.long_factor if long else self.short_factor
        plain = (self.theta ** (-2 * i / self.size) for i in range(self.size // 2))
        return [f / factors[i] for i, f in enumerate(plain)] if factors else list(plain)

    @property
    def magnitude(self) -> float:
        """What cosines and sines are multiplied by: 1, or LongRoPE's attention factor.

        sqrt(1 + ln(context / original) / ln(original)) unless the checkpoint names its own.
        """
        if self.short_factor is None:
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        stretch = self.context / self.original_context
        return 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(self.original_context))
