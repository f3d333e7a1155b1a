"""The three qualities: what each says of a recipe, and what it leaves alone."""

import dataclasses
from typing import get_args

import click
import pytest

from edgephi.cli.build import build
from edgephi.cli.plan import plan
from edgephi.declared.quality import QUALITIES, Quality, as_asked, at_quality
from edgephi.declared.recipe import GroupSize, Keep, Method, Quant, recipes

OVER_IT = {"method", "portable", "group_size"}


@pytest.mark.parametrize("command", [build, plan], ids=["build", "plan"])
def test_each_can_be_asked_for(command: click.Command) -> None:
    (option,) = [option for option in command.params if option.name == "quality"]
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == QUALITIES == get_args(Quality)


def test_what_goes_over_a_quality_is_asked_for_alike() -> None:
    options = [
        {option.name: option.to_info_dict() for option in command.params if option.name in OVER_IT}
        for command in (build, plan)
    ]
    assert options[0] == options[1]
    assert set(options[0]) == OVER_IT
    assert set(options[0]["method"]["type"]["choices"]) == set(get_args(Method))
    assert options[0]["group_size"]["type"]["choices"] == tuple(map(str, get_args(GroupSize)))


@pytest.mark.parametrize("quality", QUALITIES)
def test_what_is_asked_for_goes_over_a_quality(quality: Quality) -> None:
    recipe = recipes()[0]
    assert as_asked(recipe, quality, k_quants=True) == at_quality(recipe, quality, k_quants=True)
    asked = as_asked(recipe, quality, method="rtn", portable=True, group_size=128, k_quants=True)
    portable = dataclasses.replace(recipe, quant=dataclasses.replace(recipe.quant, formats="portable"))
    own = at_quality(portable, quality, k_quants=True).quant
    assert asked.quant == dataclasses.replace(own, method="rtn", group_size=128)


def test_the_default_is_what_the_recipe_says() -> None:
    for recipe in recipes():
        assert at_quality(recipe, "default") == recipe


def test_small_has_larger_groups_and_fewer_bits_where_that_costs_least() -> None:
    recipe = dataclasses.replace(recipes()[0], quant=Quant(keep=Keep(("lm_head",), auto=0.1)))
    quant = at_quality(recipe, "small").quant
    assert (quant.method, quant.group_size, quant.embedding_bits, quant.head_bits) == ("weighted", 64, 4, 8)
    assert (quant.mixture, quant.keep) == ("small", Keep(("lm_head",)))
    coarse = dataclasses.replace(recipe, quant=Quant(group_size=128))
    assert at_quality(coarse, "small").quant.group_size == 128


def test_best_is_calibrated_and_keeps_a_tenth() -> None:
    recipe = dataclasses.replace(recipes()[0], quant=Quant(bits_per_weight=5.0, keep=Keep(("lm_head",))))
    quant = at_quality(recipe, "best").quant
    assert (quant.method, quant.keep) == ("calibrated", Keep(("lm_head",), auto=0.1))
    assert (quant.embedding_bits, quant.head_bits, quant.bits_per_weight) == (8, 8, None)


def test_best_keeps_more_where_that_costs_less() -> None:
    recipe = recipes()[0]
    portable = dataclasses.replace(recipe, quant=Quant(formats="portable"))
    assert at_quality(recipe, "best", k_quants=True).quant.keep.auto == 0.3
    assert at_quality(portable, "best", k_quants=True).quant.keep.auto == 0.1
    assert at_quality(recipe, "small", k_quants=True) == at_quality(recipe, "small")


@pytest.mark.parametrize("quality", QUALITIES)
def test_nothing_but_the_quantisation_changes(quality: Quality) -> None:
    for recipe in recipes():
        changed = at_quality(recipe, quality)
        assert dataclasses.replace(changed, quant=recipe.quant) == recipe
        assert changed.quant.formats == recipe.quant.formats
