"""Which models the engine's classes compute: mlx-lm's Phi-3, and ours of Phi-3.5-MoE and Phi-3-small."""

from edgephi.checkpoint.architecture import Architecture, ClippedGeglu, LayerNorm, MixtureOfExperts
from edgephi.engines.mlx_lm import FACTS
from edgephi.errors import NotSupportedError
from edgephi.export.mlx.model_keys import rotary_lengths
from edgephi.export.plain_decoder import check_plain_decoder


def check_known(architecture: Architecture) -> None:
    """Raise NotSupportedError, naming model, engine and reason, for a model that no class computes."""
    match architecture.feed_forward:
        case MixtureOfExperts():
            _check(architecture, _unlike_either(architecture) | _unlike_phimoe(architecture))
        case ClippedGeglu():
            _check(architecture, _unlike_either(architecture) | _unlike_phi3small(architecture))
        case _:
            check_plain_decoder(architecture, FACTS.name)
            rotary_lengths(architecture.attention.rotary)


def _unlike_either(architecture: Architecture) -> dict[str, bool]:
    attention = architecture.attention
    return {
        "other norms than layer norms": not isinstance(architecture.norm, LayerNorm),
        "no biases": not attention.biases,
        "heads that are rotated in part": attention.rotary.size != attention.head_size,
    }


def _unlike_phimoe(architecture: Architecture) -> dict[str, bool]:
    attention = architecture.attention
    return {
        "heads that are not as wide together as the hidden state": (
            attention.heads * attention.head_size != architecture.hidden_size
        ),
        "block-sparse attention": attention.sparsity is not None,
        "another scale of scores": attention.scale is not None,
        "a head without a bias": not architecture.head_bias or architecture.tied_embeddings,
        "multipliers": (architecture.embedding_multiplier, architecture.logits_multiplier) != (1, 1),
        "unused tokens": bool(architecture.unused_token_ids),
    }


def _unlike_phi3small(architecture: Architecture) -> dict[str, bool]:
    return {"a head with a bias": architecture.head_bias}


def _check(architecture: Architecture, unlike: dict[str, bool]) -> None:
    found = [part for part, is_there in unlike.items() if is_there]
    if found:
        raise NotSupportedError(
            f"{architecture.model_type} on {FACTS.name}: expected a decoder that this engine computes, "
            f"found one with {', '.join(found)}",
            hint="choose another target",
        )
