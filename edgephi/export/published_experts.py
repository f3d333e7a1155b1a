"""What engines take for granted of a mixture of experts: that all of it but its sizes is Phi-3.5-MoE's."""

from collections.abc import Mapping

from edgephi.checkpoint.architecture import Architecture, LayerNorm
from edgephi.errors import NotSupportedError
from edgephi.export.plain_decoder import published_name


def check_published_experts(architecture: Architecture, engine: str) -> None:
    """Raise NotSupportedError, naming model, engine and reason, for a mixture of experts of another kind."""
    attention = architecture.attention
    unlike = {
        "heads that are not as wide together as the hidden state": (
            attention.heads * attention.head_size != architecture.hidden_size
        ),
        "block-sparse attention": attention.sparsity is not None,
        "another scale of scores": attention.scale is not None,
        "a head without a bias": not architecture.head_bias or architecture.tied_embeddings,
        "multipliers": (architecture.embedding_multiplier, architecture.logits_multiplier) != (1, 1),
        "unused tokens": bool(architecture.unused_token_ids),
    }
    check_alike(architecture, engine, unlike_with_biases(architecture) | unlike)


def unlike_with_biases(architecture: Architecture) -> dict[str, bool]:
    """What a decoder with layer norms and biases might have otherwise, and whether this one has."""
    attention = architecture.attention
    return {
        "other norms than layer norms": not isinstance(architecture.norm, LayerNorm),
        "no biases": not attention.biases,
        "heads that are rotated in part": attention.rotary.size != attention.head_size,
    }


def check_alike(architecture: Architecture, engine: str, unlike: Mapping[str, bool]) -> None:
    """Raise NotSupportedError that names those parts of `unlike` that are there."""
    found = [part for part, is_there in unlike.items() if is_there]
    if found:
        raise NotSupportedError(
            f"{published_name(architecture)} on {engine}: expected a decoder that this engine computes, "
            f"found one with {', '.join(found)}",
            hint="choose another target",
        )
