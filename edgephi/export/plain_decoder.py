"""Which parts of a model a plain decoder has, for engines that compute nothing else.

What is plain is a Phi-3-mini: RMSNorm, dense attention without biases, SwiGLU, and logits as they come.
"""

from edgephi.checkpoint.architecture import (
    Architecture,
    ClippedGeglu,
    GatedSilu,
    LayerNorm,
    MixtureOfExperts,
    RmsNorm,
)
from edgephi.errors import NotSupportedError

_OTHER_TARGETS = "take the target cpu, openvino or mlx; docs/guide.md says which engine computes which model"

_IN_WORDS: dict[type, str] = {
    LayerNorm: "layer norms",
    ClippedGeglu: "a clipped GEGLU",
    MixtureOfExperts: "a mixture of experts",
}
_PUBLISHED = {"phi3small": "Phi-3-small", "phi3_v": "Phi-3-vision", "phimoe": "Phi-3.5-MoE"}
"""What people call a model of this type."""


def published_name(architecture: Architecture) -> str:
    """What people call a model of this kind, as messages do."""
    return _PUBLISHED.get(architecture.model_type, architecture.model_type)


def check_plain_decoder(architecture: Architecture, engine: str) -> None:
    """Raise NotSupportedError, naming model, engine and reason, when a model has a part that is not plain."""
    attention = architecture.attention
    unknown = [
        part
        for part, is_there in (
            (_in_words(architecture.norm), not isinstance(architecture.norm, RmsNorm)),
            ("block-sparse attention", attention.sparsity is not None),
            ("biases", attention.biases or architecture.head_bias),
            ("another scale of scores", attention.scale is not None),
            (_in_words(architecture.feed_forward), not isinstance(architecture.feed_forward, GatedSilu)),
            ("multipliers", (architecture.embedding_multiplier, architecture.logits_multiplier) != (1, 1)),
            ("unused tokens", bool(architecture.unused_token_ids)),
        )
        if is_there
    ]
    if unknown:
        raise NotSupportedError(
            f"{published_name(architecture)} on {engine}: expected a plain decoder, found one with "
            f"{', '.join(unknown)}, which this engine does not compute",
            hint=_OTHER_TARGETS,
        )


def _in_words(part: object) -> str:
    return _IN_WORDS.get(type(part), type(part).__name__)
