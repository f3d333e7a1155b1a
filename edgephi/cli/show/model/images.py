"""What a plan says of a model that sees."""

from typing import Any

from edgephi.bundle.image_tokens import ImageFacts, grid_of, token_count
from edgephi.checkpoint.architecture import Architecture
from edgephi.cli.show.sizes import human_count
from edgephi.declared.recipe import Quant

_SHAPES = {"1:1": (1200, 1200), "4:3": (1600, 1200), "16:9": (1600, 900)}
"""Ratios that cameras have, and pixels of such a picture."""


def images_rows(architecture: Architecture, quant: Quant) -> list[tuple[str, str]]:
    """Rows about the image encoder, and about the tokens that a picture takes; none for other models."""
    encoder = architecture.image_encoder
    if encoder is None:
        return []
    tokens = ", ".join(f"{ratio} {count:,}" for ratio, count in _tokens(encoder.facts).items())
    return [
        ("images", f"encoder of {human_count(encoder.parameters)} parameters, {quant.image_encoder}"),
        ("", f"tokens of a picture: {tokens}"),
    ]


def images_document(architecture: Architecture, quant: Quant) -> dict[str, Any] | None:
    """The same for scripts; None for other models."""
    encoder = architecture.image_encoder
    if encoder is None:
        return None
    return {
        "parameters": encoder.parameters,
        "stored_as": quant.image_encoder,
        "tile": encoder.tile,
        "crops": encoder.crops,
        "tokens": _tokens(encoder.facts),
    }


def _tokens(facts: ImageFacts) -> dict[str, int]:
    """What a picture of each ratio takes."""
    return {ratio: token_count(grid_of(*size, facts), facts) for ratio, size in _SHAPES.items()}
