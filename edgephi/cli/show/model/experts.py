"""What a mixture of experts computes with for one token, in words."""

from edgephi.checkpoint.architecture import Architecture, MixtureOfExperts
from edgephi.cli.show.sizes import human_count
from edgephi.declared.recipe import Quant


def experts_rows(architecture: Architecture) -> list[tuple[str, str]]:
    """A row of a table about the model: how many of its weights a token is computed with."""
    feed_forward = architecture.feed_forward
    if not isinstance(feed_forward, MixtureOfExperts):
        return []
    active = human_count(architecture.active_parameters)
    return [("", f"{active} of them active: {feed_forward.chosen} of {feed_forward.experts} experts a token")]


def expert_bits(quant: Quant) -> str:
    """What is said of experts that have bits of their own."""
    return "" if quant.expert_bits is None else f", experts int{quant.expert_bits}"
