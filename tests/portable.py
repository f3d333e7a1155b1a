"""The quantisation that most tests of exporters ask for: the same codes for every engine, found quickly."""

from typing import Any

from edgephi.declared.recipe import Quant


def portable(**options: Any) -> Quant:
    """Symmetric groups of 128, 4 bits everywhere, by a search that needs no text, but for `options`."""
    usual = {
        "method": "search",
        "group_size": 128,
        "embedding_bits": 4,
        "head_bits": 4,
        "formats": "portable",
    }
    return Quant(**{**usual, **options})
