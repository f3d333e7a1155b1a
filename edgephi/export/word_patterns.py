r"""The patterns by which a byte-level tokenizer cuts a text into words, before any merge.

`tokenizer.json` writes them in steps of several kinds. Here each is the regular expression that it stands
for: one after the other cuts what it matches out of the pieces that those before it have left.

Source: `pre_tokenizers` of the `tokenizers` library. Its `Digits` asks Rust's `char::is_numeric`, which is
Unicode's `\p{N}`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgephi.commands import edgephi_command
from edgephi.errors import NotSupportedError

GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGIT, NUMBER = r"\p{N}", r"\p{N}+"


def word_patterns(file: Path, pre_tokenizer: Mapping[str, Any] | None, *, engine: str) -> tuple[str, ...]:
    """The patterns of the pre-tokenizer in `file`. Raises NotSupportedError for a step of another kind."""
    steps = _steps(pre_tokenizer or {})
    if [step["type"] for step in steps].count("ByteLevel") == 1 and steps[-1]["type"] == "ByteLevel":
        found = [_pattern(step) for step in steps]
        if None not in found:
            return tuple(pattern for pattern in found if pattern)
    text = json.dumps(pre_tokenizer, ensure_ascii=False)
    raise NotSupportedError(
        f"{file}: expected steps that cut a text into words, and ByteLevel behind them, for {engine}, "
        f"found {text[:200]}",
        hint=f"build it for another engine: `{edgephi_command('targets')}`",
    )


def _pattern(step: Mapping[str, Any]) -> str | None:
    """What a step cuts out; "" for one that cuts nothing, and None for one that no pattern stands for."""
    kind = step["type"]
    if kind == "ByteLevel" and not step["add_prefix_space"]:
        return GPT_2 if step.get("use_regex", True) else ""
    if kind == "Digits":
        return DIGIT if step["individual_digits"] else NUMBER
    # Patterns that match all of a text leave nothing to be removed between their matches.
    if kind == "Split" and (step["behavior"], step["invert"]) in (("Removed", True), ("Isolated", False)):
        pattern: str | None = step["pattern"].get("Regex")
        return pattern
    return None


def _steps(step: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A step, or those inside it."""
    if "pretokenizers" in step:
        return [each for child in step["pretokenizers"] for each in _steps(child)]
    return [step] if step else []
