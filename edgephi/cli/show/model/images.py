"""What a plan, and a bundle's summary, say of a model that sees."""

from typing import TYPE_CHECKING, Any

from edgephi.bundle.image_tokens import ImageFacts, grid_of, token_count
from edgephi.cli.show.sizes import human_count
from edgephi.engines.facts.registry import known_engines

if TYPE_CHECKING:
    from edgephi.checkpoint.architecture import Architecture
    from edgephi.declared.recipe import Quant

_SHAPES = {"1:1": (1200, 1200), "4:3": (1600, 1200), "16:9": (1600, 900)}
"""Ratios that cameras have, and pixels of such a picture."""


def images_rows(architecture: "Architecture", quant: "Quant", engine: str) -> list[tuple[str, str]]:
    """Rows about the image encoder, what a picture takes and who sees it; none for other models."""
    encoder = architecture.image_encoder
    if encoder is None:
        return []
    tokens = ", ".join(f"{ratio} {count:,}" for ratio, count in _tokens(encoder.facts).items())
    return [
        ("images", f"encoder of {human_count(encoder.parameters)} parameters, {quant.image_encoder}"),
        ("", f"tokens of a picture: {tokens}"),
        *(("", line) for line in _blind_tools(engine)),
    ]


def images_line(facts: ImageFacts | None, engine: str) -> str:
    """What a bundle's summary says of it; nothing of other models."""
    if facts is None:
        return ""
    tokens = ", ".join(f"{ratio} {count:,}" for ratio, count in _tokens(facts).items())
    return "; ".join([f"tokens of a picture: {tokens}", *_blind_tools(engine)])


def images_document(architecture: "Architecture", quant: "Quant") -> dict[str, Any] | None:
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


def _blind_tools(engine: str) -> list[str]:
    """That an engine's own tools see nothing, where that is so."""
    known = known_engines().get(engine)  # a bundle may come from a later edgephi
    return [known.blind_tools] if known is not None and known.blind_tools else []


def _tokens(facts: ImageFacts) -> dict[str, int]:
    """What a picture of each ratio takes."""
    return {ratio: token_count(grid_of(*size, facts), facts) for ratio, size in _SHAPES.items()}
