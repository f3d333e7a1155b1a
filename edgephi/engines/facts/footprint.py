"""The memory that an engine takes on a device."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Footprint:
    """What an engine takes on a device beside the artifact's bytes; a plan's memory is made of it.

    engine_bytes: the process with the engine and Python, before any weight and any word of a vocabulary
    cache_bytes_per_number: of the KV cache, per key or value number, unless a target's kernels say otherwise
    activation_bytes: size of one activation, unless a target's kernels say otherwise
    token_bytes: the tokenizer, and what else the engine holds, for each token of the vocabulary
    weight_copies: bytes of weights in memory over bytes of the artifact (an engine may repack them)
    packed_bytes_per_group: what the kernels make for each group of a matrix when the model is loaded
    expert_zero_point_bytes: what they make for each zero point of a mixture's experts, beside that
    unpacked_half_bytes: what they make of each float16 weight of an image encoder, beside its copies
    separates_tied_head: whether a matrix that is embedding and head at once is held twice
    packs_beside: whether a matrix is there as it was stored, too, while it is packed; no stack of experts is
    cache_step: the cache has room for a multiple of so many tokens
    kept_past_window: how many tokens a cache holds that have left the model's attention window, None for all
    logits_copies: copies of the logits of all tokens that are computed at once
    keeps_scores: whether the scores of attention for all of them are in memory at the same time
    sparse_score_copies: how often those of block-sparse attention are, where the others are not
    unpacked_layer_caches: copies of one layer's keys and values as activations, to compute with
    unpacks_for_each_head: whether such a copy has keys and values for each head, not for each key head
    encoder_bytes: what runs the image encoder of a model that sees, where that is another engine
    """

    engine_bytes: int
    cache_bytes_per_number: float
    activation_bytes: int
    token_bytes: int = 0
    weight_copies: float = 1.0
    packed_bytes_per_group: int = 0
    expert_zero_point_bytes: int = 0
    unpacked_half_bytes: int = 0
    separates_tied_head: bool = False
    packs_beside: bool = False
    cache_step: int = 1
    kept_past_window: int | None = None
    logits_copies: int = 2
    keeps_scores: bool = True
    sparse_score_copies: int = 0
    unpacked_layer_caches: int = 0
    unpacks_for_each_head: bool = False
    encoder_bytes: int = 0
