"""The mixture of K-quants: how large it is, and what stands in for them."""

from collections import Counter

import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from edgephi.build.shapes import architecture_of
from edgephi.build.tensor_plans import plan_tensors
from edgephi.checkpoint.roles import EMBEDDING, HEAD, ModelTensor, Role
from edgephi.declared.recipe import Quant, read_recipe
from edgephi.declared.target import read_target
from edgephi.export.gguf import exporter
from edgephi.export.gguf.blocks import TYPES
from edgephi.quantize.k_quants import k_quant


def kind(role: Role, *, columns: int = 3072, bits: int = 4, kept: bool = False) -> str:
    name: str = TYPES[k_quant(ModelTensor(role, 0), columns, bits, kept=kept)].name
    return name


def test_phi_3_mini_is_no_larger_than_as_a_q4_k_m() -> None:
    shape = read_recipe("phi-3-mini-4k").model.shape
    assert shape is not None
    architecture = architecture_of(shape)
    plans = plan_tensors(architecture, Quant(formats="native", embedding_bits=4, head_bits=8), "K-quants")
    kinds = Counter(TYPES[plan.scheme].name for plan in plans.values() if plan.scheme is not None)
    assert kinds == {"Q4_K": 65, "Q5_K": 64, "Q6_K": 1}
    size = exporter.artifact_bytes(architecture, plans, read_target("gguf"), 4096)
    # llama.cpp's mixture for the same shapes: half of the down projections have 6 bits, half 4.
    halves = shape.layers // 2 * shape.hidden_size * shape.intermediate_size
    theirs = size + halves * (_bytes("Q6_K") + _bytes("Q4_K") - 2 * _bytes("Q5_K"))
    assert size < theirs < 1.01 * size


def _bytes(name: str) -> float:
    """Of a weight."""
    weights, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    return float(size / weights)


@pytest.mark.parametrize(("bits", "expected"), [(4, "Q4_K"), (8, "Q6_K")])
def test_the_vocabulary_has_bits_of_its_own(bits: int, expected: str) -> None:
    for tensor in (EMBEDDING, HEAD):
        assert TYPES[k_quant(tensor, 3072, bits)].name == expected


def test_a_small_mixture_is_q4_k_but_for_the_vocabulary() -> None:
    small = {TYPES[k_quant(ModelTensor(role, 0), 3072, 4, "small")].name for role in Role}
    assert small == {"Q4_K"}
    assert TYPES[k_quant(HEAD, 3072, 8, "small")].name == "Q6_K"
    assert TYPES[k_quant(ModelTensor(Role.DOWN, 0), 576, 4, "small")].name == "Q5_0"
    assert TYPES[k_quant(ModelTensor(Role.DOWN, 0), 3072, 4, "small", kept=True)].name == "Q5_K"


def test_short_rows_have_groups_of_32() -> None:
    assert kind(Role.GATE_UP, columns=576) == "Q5_0"
    assert kind(Role.QUERY_KEY_VALUE, columns=576) == "Q5_1"
    assert kind(Role.DOWN, columns=1504) == "Q5_1"
    assert kind(Role.DOWN, columns=1536) == "Q5_K"
    assert kind(Role.HEAD, columns=576, bits=8) == "Q8_0"


def test_eight_bits_stay_eight_bits() -> None:
    assert {kind(role, bits=8) for role in (Role.QUERY_KEY_VALUE, Role.GATE_UP, Role.DOWN)} == {"Q8_0"}


def test_what_is_kept_at_more_bits_gets_the_next_better() -> None:
    assert kind(Role.GATE_UP, kept=True) == "Q5_K"
    assert kind(Role.DOWN, kept=True) == "Q6_K"
    assert kind(Role.HEAD, bits=8, kept=True) == "Q8_0"
    assert kind(Role.GATE_UP, columns=576, kept=True) == "Q8_0"
    assert kind(Role.DOWN, bits=8, kept=True) == "Q8_0"
