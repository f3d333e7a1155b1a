"""Which parts of a model a plain decoder has, for engines that compute nothing else.

What is plain is a Phi-3-mini: RMSNorm, dense attention without biases, SwiGLU, and logits as they come.
"""

from edgephi.checkpoint.architecture import Architecture, GatedSilu, RmsNorm
from edgephi.errors import NotSupportedError

_OTHER_TARGETS = "choose another target: the guide's table says which engine computes which model"


def check_plain_decoder(architecture: Architecture, engine: str) -> None:
    """Raise NotSupportedError, naming model, engine and reason, when a model has a part that is not plain."""
    attention = architecture.attention
    unknown = [
        part
        for part, is_there in (
            ("layer norms", not isinstance(architecture.norm, RmsNorm)),
            ("block-sparse attention", attention.sparsity is not None),
            ("biases", attention.biases or architecture.head_bias),
            ("another scale of scores", attention.scale is not None),
            (type(architecture.feed_forward).__name__, not isinstance(architecture.feed_forward, GatedSilu)),
            ("multipliers", (architecture.embedding_multiplier, architecture.logits_multiplier) != (1, 1)),
            ("unused tokens", bool(architecture.unused_token_ids)),
        )
        if is_there
    ]
    if unknown:
        raise NotSupportedError(
            f"{architecture.model_type} on {engine}: expected a decoder that this engine computes, found one "
            f"with {', '.join(unknown)}",
            hint=_OTHER_TARGETS,
        )
