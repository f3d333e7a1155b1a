"""What a build chooses to keep at more bits: the best within a share or a budget, and of use."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgephi.build.build import Built, plan_model
from edgephi.build.mixed_precision import best_within
from edgephi.bundle.manifest import Manifest, read_manifest
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.declared.recipe import Keep, Recipe, read_recipe
from edgephi.declared.target import read_target
from edgephi.errors import DoesNotFitError, NotSupportedError
from tests.build.demo import build_demo

DEMO = read_recipe("demo")
MATRICES = [ModelTensor(Role.DOWN, layer) for layer in range(8)]


def asking(**quant: Any) -> Recipe:
    return dataclasses.replace(DEMO, quant=dataclasses.replace(DEMO.quant, **quant))


def weights_of(manifest: Manifest, names: tuple[str, ...]) -> float:
    """The share of the layers' weights that these matrices are."""
    plan = plan_model("demo", DEMO, read_target("cpu"))
    sizes = {
        str(tensor): shape[0] * shape[1]
        for tensor, shape in plan.architecture.tensor_shapes().items()
        if tensor.layer is not None and len(shape) == 2
    }
    from edgephi.build.matrix_names import tensors_named

    kept = tensors_named(names, plan.architecture)
    return sum(sizes[str(tensor)] for tensor in kept) / sum(sizes.values())


class TestGreed:
    numbers = st.lists(st.tuples(st.floats(-1, 100), st.integers(1, 50)), min_size=8, max_size=8)

    @given(numbers, st.integers(0, 300))
    def test_it_stays_within_the_room_and_leaves_nothing_that_fits(
        self, pairs: list[tuple[float, int]], room: int
    ) -> None:
        gains = {tensor: gain for tensor, (gain, _) in zip(MATRICES, pairs, strict=True)}
        costs = {tensor: cost for tensor, (_, cost) in zip(MATRICES, pairs, strict=True)}
        kept = best_within(room, costs, gains)
        left = room - sum(costs[tensor] for tensor in kept)
        assert left >= 0
        assert all(gains[tensor] >= 0 for tensor in kept)
        assert all(costs[each] > left for each in MATRICES if each not in kept and gains[each] >= 0)

    def test_what_gains_most_for_its_cost_comes_first(self) -> None:
        small, large, dear = MATRICES[:3]
        gains, costs = {small: 2.0, large: 9.0, dear: 9.5}, {small: 1, large: 6, dear: 10}
        assert best_within(7, costs, gains) == {small, large}
        assert best_within(11, costs, gains) == {small, large}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("kept") / "bundle"
    return build_demo("cpu", folder, recipe=asking(keep=Keep(auto=0.25)))


class TestShare:
    def test_it_keeps_no_more_than_the_share_and_most_of_it(self, kept: Built) -> None:
        share = weights_of(kept.manifest, kept.manifest.quant.kept)
        assert 0.15 < share <= 0.25

    def test_the_model_loses_less(self, kept: Built, demo_bundle: Path) -> None:
        without, with_more = read_manifest(demo_bundle).certificate, kept.manifest.certificate
        assert without.quantisation_loss is not None
        assert with_more.quantisation_loss is not None
        assert with_more.quantisation_loss.kl_mean < 0.95 * without.quantisation_loss.kl_mean

    def test_it_is_what_a_recipe_with_these_names_builds(self, kept: Built, tmp_path: Path) -> None:
        names = kept.manifest.quant.kept
        named = build_demo(
            "cpu", tmp_path / "named", recipe=asking(keep=Keep(names)), context=4096, verify="off"
        )
        assert named.manifest.quant.kept == names
        assert named.manifest.quant.bits_per_weight == kept.manifest.quant.bits_per_weight

    def test_the_names_of_a_recipe_come_on_top(self, tmp_path: Path) -> None:
        recipe = asking(keep=Keep(("model.layers.1.mlp.down_proj",), auto=0.1))
        found = build_demo("cpu", tmp_path / "bundle", recipe=recipe, verify="off").manifest.quant.kept
        assert "model.layers.1.mlp.down_proj" in found
        others = tuple(name for name in found if name != "model.layers.1.mlp.down_proj")
        assert 0 < weights_of(read_manifest(tmp_path / "bundle"), others) <= 0.1

    def test_the_bundle_is_no_larger_than_was_planned(self, kept: Built) -> None:
        plan, built = plan_model("demo", asking(keep=Keep(auto=0.25)), read_target("cpu")), kept
        assert plan.undecided
        assert not built.plan.undecided
        assert built.manifest.quant.kept
        assert 0.97 * plan.artifact_bytes < built.plan.artifact_bytes <= plan.artifact_bytes
        assert built.manifest.requires.memory_bytes <= plan.memory.total


class TestBudget:
    def test_it_is_filled_and_held(self, tmp_path: Path) -> None:
        recipe = asking(bits_per_weight=8.3)
        plan = plan_model("demo", recipe, read_target("cpu"))
        built = build_demo("cpu", tmp_path / "bundle", recipe=recipe, verify="off")
        assert plan.bits_per_weight == pytest.approx(8.3, abs=1e-3)
        assert 8.2 < built.manifest.quant.bits_per_weight <= 8.3
        assert built.manifest.quant.kept

    def test_one_that_is_never_needed_is_not_planned(self) -> None:
        plan = plan_model("demo", asking(bits_per_weight=30.0), read_target("cpu"))
        every = plan_model("demo", asking(keep=Keep(("model.layers.*",))), read_target("cpu"))
        assert plan.artifact_bytes == every.artifact_bytes

    def test_one_that_cannot_be_reached(self) -> None:
        plain = plan_model("demo", DEMO, read_target("cpu")).bits_per_weight
        with pytest.raises(DoesNotFitError, match=r"at most 4\.8 bits per weight, found 7\.79") as caught:
            plan_model("demo", asking(bits_per_weight=4.8), read_target("cpu"))
        least = float(caught.value.hint.split("bits_per_weight = ")[1].split()[0])
        assert plain <= least <= plain + 0.01
        assert plan_model("demo", asking(bits_per_weight=least), read_target("cpu")).bits_per_weight <= least

    @pytest.mark.parametrize(
        ("model", "target", "asked", "offered"),
        [
            (
                "phi-3-mini-4k",
                "cpu",
                {"bits_per_weight": 5.3},
                ["bits_per_weight", "group_size", "embedding_bits"],
            ),
            (
                "phi-3-mini-4k",
                "cpu",
                {"bits_per_weight": 4.75},
                ["bits_per_weight", "embedding_bits and group_size"],
            ),
            (
                "phi-3-mini-4k",
                "cpu",
                {"bits_per_weight": 4.4, "group_size": 128},
                ["bits_per_weight", "embedding_bits"],
            ),
            ("phi-3-mini-4k", "cpu", {"bits_per_weight": 4.3}, ["bits_per_weight"]),
            ("phi-3-mini-4k", "cpu", {"bits_per_weight": 8.0, "bits": 8}, ["bits_per_weight", "bits"]),
            # One matrix is both, with the larger number of bits of the two.
            (
                "phi-4-mini",
                "cpu",
                {"bits_per_weight": 4.5, "group_size": 128},
                ["bits_per_weight", "embedding_bits and head_bits"],
            ),
            # Sizes of groups are not its to choose.
            ("phi-3-mini-4k", "gguf", {"bits_per_weight": 4.95}, ["bits_per_weight", "mixture"]),
            (
                "phi-3-mini-4k",
                "gguf",
                {"bits_per_weight": 4.6},
                ["bits_per_weight", "embedding_bits and mixture"],
            ),
            ("phi-3-mini-4k", "gguf", {"bits_per_weight": 4.5}, ["bits_per_weight"]),
        ],
    )
    def test_what_is_offered_instead_would_do(
        self, model: str, target: str, asked: dict[str, Any], offered: list[str]
    ) -> None:
        recipe = read_recipe(model)
        recipe = dataclasses.replace(recipe, quant=dataclasses.replace(recipe.quant, **asked))
        with pytest.raises(DoesNotFitError) as caught:
            plan_model(model, recipe, read_target(target))
        settings = caught.value.hint.removeprefix("set ").removesuffix(" in the recipe").split(", or ")
        found = []
        for setting in settings:
            changes = tomllib.loads(setting.removesuffix(" or more").replace(" and ", "\n"))
            found.append(" and ".join(changes))
            own = dataclasses.replace(recipe, quant=dataclasses.replace(recipe.quant, **changes))
            plan = plan_model(model, own, read_target(target))
            assert own.quant.bits_per_weight is not None
            assert plan.bits_per_weight <= own.quant.bits_per_weight + 0.001
        assert found == offered

    def test_nothing_is_offered_that_a_device_cannot_hold(self) -> None:
        recipe, pi = read_recipe("phi-4"), read_target("raspberry-pi-5-8gb")
        recipe = dataclasses.replace(recipe, quant=dataclasses.replace(recipe.quant, bits_per_weight=5.0))
        with pytest.raises(DoesNotFitError, match=r"at most 5 bits per weight") as caught:
            plan_model("phi-4", recipe, pi)
        assert caught.value.hint == "choose a smaller model or a larger device"


def test_the_first_layers_of_a_model_are_built_without_what_they_do_not_have(tmp_path: Path) -> None:
    keep = Keep(("model.layers.0.mlp.down_proj", "model.layers.2.*"))
    recipe = asking(keep=keep, bits_per_weight=8.8)
    built = build_demo("cpu", tmp_path / "bundle", recipe=recipe, layers=1, verify="off")
    assert built.manifest.quant.kept == ("model.layers.0.mlp.down_proj",)


@pytest.mark.parametrize("quant", [{"keep": Keep(auto=0.1)}, {"bits_per_weight": 8.5}])
def test_a_method_that_measures_nothing_cannot_choose(quant: dict[str, Any]) -> None:
    with pytest.raises(NotSupportedError, match="expected the method weighted or calibrated, found search"):
        plan_model("demo", asking(method="search", **quant), read_target("cpu"))
