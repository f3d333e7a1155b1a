"""What a plan knows of a mixture of experts: which bits, how much of it a token reads, what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from edgephi.build.build import build, find_checkpoint
from edgephi.build.device_memory import idle_bytes
from edgephi.build.request import BuildRequest
from edgephi.build.tensor_plans import plan_tensors
from edgephi.checkpoint.config import load_architecture, read_architecture
from edgephi.checkpoint.roles import EXPERTS, ModelTensor, Role
from edgephi.declared.recipe import Keep, Quant, read_recipe
from edgephi.declared.target import read_target
from edgephi.errors import BadDeclarationError
from edgephi.steps import silent
from tests.tiny_phimoe import TinyExperts, tiny_phimoe_config, write_tiny_phimoe

ARCHITECTURE = read_architecture(tiny_phimoe_config(TinyExperts(layers=3), 500), where="config.json")
PORTABLE = Quant(formats="portable")


def bits_of(quant: Quant) -> dict[Role, set[int | None]]:
    found: dict[Role, set[int | None]] = {}
    for tensor, plan in plan_tensors(ARCHITECTURE, quant).items():
        found.setdefault(tensor.role, set()).add(None if plan.scheme is None else plan.scheme.bits)
    return found


def test_a_router_and_biases_stay_plain_numbers() -> None:
    found = bits_of(PORTABLE)
    assert found[Role.ROUTER] == {None}
    assert {role for role, bits in found.items() if bits == {None} and "bias" in role.value} == {
        Role.ATTENTION_NORM_BIAS,
        Role.QUERY_KEY_VALUE_BIAS,
        Role.ATTENTION_OUTPUT_BIAS,
        Role.FEED_FORWARD_NORM_BIAS,
        Role.FINAL_NORM_BIAS,
        Role.HEAD_BIAS,
    }
    assert found[Role.EXPERTS_GATE_UP] == found[Role.EXPERTS_DOWN] == {4}


@pytest.mark.parametrize(("bits", "expert_bits"), [(4, 8), (8, 4)])
def test_experts_have_bits_of_their_own(bits: Any, expert_bits: Any) -> None:
    found = bits_of(dataclasses.replace(PORTABLE, bits=bits, expert_bits=expert_bits))
    assert {*found[Role.EXPERTS_GATE_UP], *found[Role.EXPERTS_DOWN]} == {expert_bits}
    assert found[Role.QUERY_KEY_VALUE] == {bits}


def test_a_name_keeps_the_experts_of_a_layer_at_more_bits() -> None:
    name = "model.layers.1.block_sparse_moe.experts.down_proj"
    plans = plan_tensors(ARCHITECTURE, dataclasses.replace(PORTABLE, keep=Keep((name,))))
    kept = {
        tensor for tensor, plan in plans.items() if plan.scheme and plan.scheme.bits == 8 and tensor.layer
    }
    assert kept == {ModelTensor(Role.EXPERTS_DOWN, 1)}


def test_a_router_has_no_bits_to_keep() -> None:
    keep = Keep(("model.layers.1.block_sparse_moe.gate",))
    with pytest.raises(BadDeclarationError, match="expected the name of a matrix"):
        plan_tensors(ARCHITECTURE, dataclasses.replace(PORTABLE, keep=keep))


def test_a_token_leaves_most_experts_alone() -> None:
    plans = plan_tensors(ARCHITECTURE, PORTABLE)
    weights = 3 * 3 * 16 * 192 * 256  # layers, matrices, experts, width, hidden
    assert idle_bytes(ARCHITECTURE, plans) == weights * 14 // 16 * 18 // 32  # 16 bytes of codes, 2 of a scale
    idle_weights = ARCHITECTURE.parameters - ARCHITECTURE.active_parameters
    assert idle_weights == weights * 14 // 16
    stored = sum(1 for tensor in plans if tensor.role in EXPERTS)
    assert stored == 2 * ARCHITECTURE.layers


def test_a_bundle_says_what_one_token_is_computed_with(tmp_path: Path) -> None:
    """And its bench takes the bytes that it reads for the bound by memory bandwidth."""
    checkpoint = write_tiny_phimoe(tmp_path / "tiny")
    recipe = dataclasses.replace(read_recipe("default"), quant=PORTABLE)
    request = BuildRequest(str(checkpoint), read_target("mlx"), recipe, tmp_path / "bundle", verify="off")
    located = find_checkpoint(str(checkpoint), recipe, None, progress=False)
    manifest = build(request, located, silent).manifest
    architecture = load_architecture(checkpoint)
    assert manifest.model.parameters == architecture.parameters
    assert manifest.model.active_parameters == architecture.active_parameters
    weights = tmp_path / "bundle" / "model" / "model.safetensors"
    assert 0.5 < manifest.requires.idle_bytes / weights.stat().st_size < 0.9
