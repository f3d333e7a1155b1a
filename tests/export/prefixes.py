"""Texts of several lengths that one pass of the oracle serves."""

from collections.abc import Iterable

from edgephi.checkpoint.checkpoint import Checkpoint


def prefix_groups(checkpoint: Checkpoint, context: int, lengths: Iterable[int]) -> list[list[int]]:
    """The lengths up to `context`, in groups that use the same RoPE factors.

    Attention is causal: the logits of the longest text of a group are those of all its beginnings.
    """
    switch = checkpoint.architecture.attention.rotary.uses_long_factors
    fitting = [length for length in lengths if length <= context]
    groups = [n for n in fitting if not switch(n)], [n for n in fitting if switch(n)]
    return [group for group in groups if group]
