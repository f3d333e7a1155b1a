"""What may be kept at more bits, and the size that a plan promises before that is chosen."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgephi.build.matrix_names import names_of
from edgephi.build.plan import Plan, make_plan
from edgephi.build.shapes import architecture_of
from edgephi.build.tensor_plans import improvable, matrix_sizes, plan_tensors, weights_to_keep
from edgephi.checkpoint.architecture import Architecture
from edgephi.declared.recipe import Keep, Quant, read_recipe
from edgephi.declared.target import Target, for_soc, read_target
from tests.property_profile import examples

QNN = for_soc(read_target("qnn"), "snapdragon-8-gen-3")
TARGETS = [QNN, *(read_target(name) for name in ("cpu", "openvino", "mlx", "gguf"))]


def phi(**changes: Any) -> Architecture:
    shape = read_recipe("phi-3-mini-4k").model.shape
    assert shape is not None
    return architecture_of(dataclasses.replace(shape, **{"layers": 2, **changes}))


def planned(architecture: Architecture, target: Target, **quant: Any) -> Plan:
    recipe = dataclasses.replace(read_recipe("default"), quant=Quant(**quant))
    return make_plan("phi", architecture, recipe, target, context=512)


@pytest.mark.parametrize(
    ("target", "hidden"),
    [*((target, 576) for target in TARGETS), (TARGETS[-1], 3072)],
    ids=lambda each: getattr(each, "name", str(each)),
)
@settings(max_examples=examples(8))
@given(data=st.data())
def test_no_choice_is_larger_than_what_was_planned(target: Target, hidden: int, data: st.DataObject) -> None:
    architecture = phi(hidden_size=hidden, heads=hidden // 96, kv_heads=hidden // 96)
    share = data.draw(st.sampled_from([0.05, 0.1, 0.3, 0.77, 1.0]))
    left, chosen = weights_to_keep(architecture, share), set()
    for tensor in data.draw(st.permutations([*matrix_sizes(architecture)])):
        if matrix_sizes(architecture)[tensor] <= left:
            left -= matrix_sizes(architecture)[tensor]
            chosen.add(tensor)
    promised = planned(architecture, target, keep=Keep(auto=share))
    made = planned(architecture, target, keep=Keep(names_of(chosen, architecture)))
    assert promised.undecided
    assert made.artifact_bytes <= promised.artifact_bytes
    assert made.memory.total <= promised.memory.total


def test_all_of_it_is_as_large_as_all_by_name() -> None:
    every, named = Keep(auto=1.0), Keep(("model.layers.*",))
    for target in TARGETS:
        sizes = {planned(phi(), target, keep=keep).artifact_bytes for keep in (every, named)}
        assert len(sizes) == 1, target.name


def test_only_what_gains_by_more_bits_can_be_chosen() -> None:
    quant = Quant(keep=Keep(("model.layers.0.*",)))
    better = improvable(phi(), quant, "zero points")
    assert {tensor.layer for tensor in better} == {1}
    assert len(better) == 4
    assert {plan.quantised.bits for plan in better.values()} == {8}
    assert improvable(phi(), Quant(bits=8)) == {}


def test_the_vocabulary_is_kept_by_name_alone() -> None:
    quant = Quant(embedding_bits=4, keep=Keep(("model.embed_tokens",)))
    plans = plan_tensors(phi(), quant)
    assert {
        plan.quantised.bits for tensor, plan in plans.items() if tensor.layer is None and plan.scheme
    } == {8}
    assert all(tensor.layer is not None for tensor in improvable(phi(), Quant(embedding_bits=4)))
