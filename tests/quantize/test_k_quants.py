"""The mixture of K-quants: as many of each as llama.cpp's Q4_K_M has, and what stands in for them."""

from collections import Counter

import pytest

from edgephi.build.plan import architecture_of, plan_tensors
from edgephi.checkpoint.roles import EMBEDDING, HEAD, ModelTensor, Role
from edgephi.declared.recipe import Quant, read_recipe
from edgephi.export.gguf.blocks import TYPES
from edgephi.quantize.k_quants import k_quant


def kind(role: Role, layer: int, *, layers: int = 32, columns: int = 3072, bits: int = 4) -> str:
    name: str = TYPES[k_quant(ModelTensor(role, layer), columns, layers, bits)].name
    return name


def test_half_of_the_down_projections_have_six_bits() -> None:
    six = [layer for layer in range(32) if kind(Role.DOWN, layer) == "Q6_K"]
    assert six == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert {kind(Role.DOWN, layer) for layer in range(32) if layer not in six} == {"Q4_K"}


def test_what_phi_3_mini_is_made_of() -> None:
    shape = read_recipe("phi-3-mini-4k").model.shape
    assert shape is not None
    architecture = architecture_of(shape)
    plans = plan_tensors(architecture, Quant(formats="k-quants", head_bits=8))
    kinds = Counter(TYPES[plan.scheme].name for plan in plans.values() if plan.scheme is not None)
    assert kinds == {"Q4_K": 81, "Q5_K": 32, "Q6_K": 17}


@pytest.mark.parametrize(("bits", "expected"), [(4, "Q4_K"), (8, "Q6_K")])
def test_the_vocabulary_has_bits_of_its_own(bits: int, expected: str) -> None:
    for tensor in (EMBEDDING, HEAD):
        assert TYPES[k_quant(tensor, 3072, 32, bits)].name == expected


def test_short_rows_have_groups_of_32() -> None:
    assert kind(Role.GATE_UP, 0, columns=576) == "Q5_0"
    assert kind(Role.QUERY_KEY_VALUE, 0, columns=576) == "Q5_1"
    assert kind(Role.DOWN, 0, columns=1504) == "Q8_0"
    assert kind(Role.DOWN, 0, columns=1536) == "Q6_K"


def test_eight_bits_stay_eight_bits() -> None:
    assert {kind(role, 0, bits=8) for role in (Role.QUERY_KEY_VALUE, Role.GATE_UP, Role.DOWN)} == {"Q8_0"}
