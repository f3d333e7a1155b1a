"""Three settings of how good or how small: what each puts in the place of a recipe's `[quant]`."""

from dataclasses import replace
from typing import Literal, get_args

from edgephi.declared.recipe import GroupSize, Keep, Method, Quant, Recipe

Quality = Literal["small", "default", "best"]
"""The smallest that is worth having, what the recipe says, and the best at little more than its size."""

QUALITIES: tuple[Quality, ...] = get_args(Quality)

_BEST_SHARE = 0.1
_BEST_SHARE_OF_K_QUANTS = 0.3  # where more bits are one more, not four


def at_quality(recipe: Recipe, quality: Quality, *, k_quants: bool = False) -> Recipe:
    """The recipe with what a quality says of bits, groups and method; the names that it keeps stay.

    `k_quants`: whether the target's native format is llama.cpp's.
    """
    share = _BEST_SHARE_OF_K_QUANTS if k_quants and recipe.quant.formats == "native" else _BEST_SHARE
    return replace(recipe, quant=_at_quality(recipe.quant, quality, share))


def as_asked(
    recipe: Recipe,
    quality: Quality,
    *,
    method: Method | None = None,
    portable: bool = False,
    group_size: GroupSize | None = None,
    k_quants: bool = False,
) -> Recipe:
    """The recipe at a quality, with what a user asks for by `--method` and the like over both.

    `method` and `group_size` None leave the quality's. See `at_quality` for `k_quants`.
    """
    if portable:
        recipe = replace(recipe, quant=replace(recipe.quant, formats="portable"))
    recipe = at_quality(recipe, quality, k_quants=k_quants)
    quant = recipe.quant
    return replace(
        recipe,
        quant=replace(quant, method=method or quant.method, group_size=group_size or quant.group_size),
    )


def _at_quality(quant: Quant, quality: Quality, best_share: float) -> Quant:
    if quality == "default":
        return quant
    if quality == "small":
        return replace(
            quant,
            bits=4,
            group_size=max(64, quant.group_size),
            embedding_bits=4,
            head_bits=8,
            mixture="small",
            keep=Keep(quant.keep.tensors),
            bits_per_weight=None,
        )
    return replace(
        quant,
        method="calibrated",
        embedding_bits=8,
        head_bits=8,
        keep=Keep(quant.keep.tensors, auto=best_share),
        bits_per_weight=None,
    )
