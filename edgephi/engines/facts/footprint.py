"""The memory that an engine takes on a device."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Footprint:
    """What an engine takes on the device beside the artifact's bytes; a plan's memory is made of it.

    engine_bytes: the process with the engine, its tokenizer and Python, before any weight
    cache_bytes_per_number: of the KV cache, per key or value number, unless a target's kernels say otherwise
    activation_bytes: size of one activation, unless a target's kernels say otherwise
    weight_copies: bytes of weights in memory over bytes of the artifact (an engine may repack them)
    logits_copies: copies of the logits of all tokens that are computed at once
    keeps_scores: whether the scores of attention for all of them are in memory at the same time
    packed_bytes_per_group: what the kernels make for each group of a matrix when the model is loaded
    """

    engine_bytes: int
    cache_bytes_per_number: float
    activation_bytes: int
    weight_copies: float = 1.0
    logits_copies: int = 2
    keeps_scores: bool = True
    packed_bytes_per_group: int = 0
