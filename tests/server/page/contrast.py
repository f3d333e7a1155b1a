"""How far texts stand out from what lies behind them."""

from pathlib import Path
from typing import Any

TEXTS = (Path(__file__).parent / "contrast.js").read_text()
"""Run in a browser: every text that can be seen, with its colour and those behind it."""


def contrast(text: dict[str, Any]) -> float:
    """The contrast of a text as WCAG 2 defines it, from 1 to 21."""
    colour = behind = [0.0, 0.0, 0.0]
    for *channels, alpha in reversed([text["colour"], *text["behind"]]):
        colour, behind = (
            [over * alpha + under * (1 - alpha) for over, under in zip(channels, colour, strict=True)],
            colour,
        )
    light, dark = sorted((luminance(colour), luminance(behind)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: list[float]) -> float:
    """The relative luminance of red, green and blue, each 0 to 255."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
