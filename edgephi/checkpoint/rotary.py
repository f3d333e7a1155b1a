"""The rotary embedding of a checkpoint: what it computes, and how a config.json declares it.

Sources: the models' published configs; LongRoPE (Ding et al., 2024, arXiv:2402.13753) as `transformers`
computes it for `Phi3ForCausalLM`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgephi.checkpoint.config_keys import LARGEST_CONTEXT, ConfigKeys


@dataclass(frozen=True)
class RotaryEmbedding:
    """RoPE as one checkpoint declares it.

    `size` is the number of rotated dimensions of a head (less than the head size when partial). A LongRoPE
    checkpoint has one factor for each of the `size // 2` frequencies, short and long; otherwise both are
    None. Sequences of more than `original_context` tokens use the long factors, for all their positions.
    `attention_factor` is what a checkpoint names for its magnitude; `long_attention_factor` is that of the
    long factors, where it names another for these.
    """

    size: int
    theta: float
    original_context: int
    context: int
    short_factor: tuple[float, ...] | None = None
    long_factor: tuple[float, ...] | None = None
    attention_factor: float | None = None
    long_attention_factor: float | None = None

    def uses_long_factors(self, total_length: int) -> bool:
        """Whether a sequence of `total_length` tokens is rotated by the long factors."""
        return self.long_factor is not None and total_length > self.original_context

    def inverse_frequencies(self, *, long: bool) -> list[float]:
        """The `size // 2` angular frequencies in radians per position."""
        factors = self.long_factor if long else self.short_factor
        plain = (self.theta ** (-2 * i / self.size) for i in range(self.size // 2))
        return [f / factors[i] for i, f in enumerate(plain)] if factors else list(plain)

    def magnitude_of(self, *, long: bool) -> float:
        """What cosines and sines of the short factors are multiplied by, or those of the long ones."""
        if long and self.long_attention_factor is not None:
            return self.long_attention_factor
        return self.magnitude

    @property
    def magnitude(self) -> float:
        """What cosines and sines are multiplied by: 1, or LongRoPE's attention factor.

        sqrt(1 + ln(context / original) / ln(original)) unless the checkpoint names its own. It is that of the
        long factors too, but for a model that names another for these.
        """
        if self.short_factor is None:
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        stretch = self.context / self.original_context
        return 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(self.original_context))


def read_rotary(keys: ConfigKeys, *, head_size: int, context: int) -> RotaryEmbedding:
    """RoPE from the classic keys, or from `rope_parameters`, whose entries win as they do in transformers.

    Raises BadCheckpointError, or NotSupportedError for a kind of RoPE that edgephi does not compute.
    """
    name = "rope_scaling" if keys.data.get("rope_scaling") else "rope_parameters"
    table = keys.data.get(name) or {}
    if not isinstance(table, Mapping):
        keys.fail(name, "a table or null", table)
    rope = ConfigKeys(table, f"{keys.where}: {name}")
    theta = rope.number("rope_theta", default=keys.number("rope_theta", default=10000.0))
    outer = keys.number("partial_rotary_factor", default=1.0)
    share = rope.number("partial_rotary_factor", default=outer)
    size = int(head_size * share)
    if share > 1 or size < 2 or size % 2:
        keys.fail("partial_rotary_factor", f"an even part of the head size {head_size}", share)

    kind_key = "rope_type" if "rope_type" in table else "type"
    kind = table.get(kind_key) or "default"
    if kind == "default":
        original = keys.whole("original_max_position_embeddings", default=context, largest=LARGEST_CONTEXT)
        return RotaryEmbedding(size=size, theta=theta, original_context=original, context=context)
    if kind not in ("su", "longrope"):
        rope.refuse(kind_key, "longrope")

    # The key stands outside of the table in every published model, and there it wins. Nothing may stand in
    # for it: a wrong guess would switch the factors at the wrong length.
    holder = keys if "original_max_position_embeddings" in keys.data else rope
    original = holder.whole("original_max_position_embeddings", smallest=2, largest=LARGEST_CONTEXT)
    short, long = _attention_factors(rope, original_context=original)
    return RotaryEmbedding(
        size=size,
        theta=theta,
        original_context=original,
        context=context,
        short_factor=rope.numbers("short_factor", count=size // 2),
        long_factor=rope.numbers("long_factor", count=size // 2),
        attention_factor=short,
        long_attention_factor=long,
    )


def _attention_factors(rope: ConfigKeys, *, original_context: int) -> tuple[float | None, float | None]:
    """What a LongRoPE table says about the magnitude of cosines and sines, and another for the long factors.

    None for the first is the usual formula.
    """
    table = rope.data
    if table.get("short_mscale") is not None or table.get("long_mscale") is not None:
        short, long = rope.number("short_mscale"), rope.number("long_mscale")
        return short, None if short == long else long
    if table.get("attention_factor") is not None:
        return rope.number("attention_factor"), None
    if table.get("factor") is not None:
        stretch = rope.number("factor")
        return (
            1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(original_context)),
            None,
        )
    return None, None
