"""Which models the engine's classes compute: mlx-lm's Phi-3, and ours of Phi-3.5-MoE and Phi-3-small."""

from edgephi.checkpoint.architecture import Architecture, ClippedGeglu, MixtureOfExperts
from edgephi.engines.mlx_lm import FACTS
from edgephi.export.mlx.model_keys import rotary_lengths
from edgephi.export.plain_decoder import check_plain_decoder
from edgephi.export.published_experts import check_alike, check_published_experts, unlike_with_biases


def check_known(architecture: Architecture) -> None:
    """Raise NotSupportedError, naming model, engine and reason, for a model that no class computes."""
    match architecture.feed_forward:
        case MixtureOfExperts():
            check_published_experts(architecture, FACTS.name)
        case ClippedGeglu():
            unlike = unlike_with_biases(architecture) | {"a head with a bias": architecture.head_bias}
            check_alike(architecture, FACTS.name, unlike)
        case _:
            check_plain_decoder(architecture, FACTS.name)
            rotary_lengths(architecture.attention.rotary)
