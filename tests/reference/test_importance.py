"""The importance of inputs: transformers' own activations, squared."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgephi.checkpoint.checkpoint import CheckpointWeights, open_checkpoint
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.reference.importance import Importance, hash_of, measure_importance
from tests.tiny_checkpoint import TinyShape, write_tiny_checkpoint

PASSAGES = [list(range(40)), list(range(100, 60, -1)), [3, 1, 4, 1, 5]]
MODULES = {
    "self_attn.qkv_proj": Role.QUERY_KEY_VALUE,
    "self_attn.o_proj": Role.ATTENTION_OUTPUT,
    "mlp.gate_up_proj": Role.GATE_UP,
    "mlp.down_proj": Role.DOWN,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "model", TinyShape(tied=False))


def measured(folder: Path, passages: list[list[int]]) -> Importance:
    weights = CheckpointWeights(open_checkpoint(folder, id="tiny", revision=""))
    return measure_importance(weights, passages)


def transformers_mean_squares(folder: Path) -> dict[ModelTensor, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sums: dict[ModelTensor, torch.Tensor] = {}

    def listen(module: Any, tensor: ModelTensor) -> None:
        def add(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            squares = inputs[0].reshape(-1, inputs[0].shape[-1]).double().square().sum(dim=0)
            sums[tensor] = sums.get(tensor, torch.zeros_like(squares)) + squares

        module.register_forward_pre_hook(add)

    for layer, block in enumerate(model.model.layers):
        for name, role in MODULES.items():
            listen(block.get_submodule(name), ModelTensor(role, layer))
    listen(model.lm_head, ModelTensor(Role.HEAD))
    with torch.no_grad():
        for passage in PASSAGES:
            model(torch.tensor([passage]))
    return {tensor: total / sum(map(len, PASSAGES)) for tensor, total in sums.items()}


def test_it_is_the_mean_square_of_what_transformers_multiplies_with(folder: Path) -> None:
    found, expected = measured(folder, PASSAGES), transformers_mean_squares(folder)
    assert found.keys() == expected.keys()
    for tensor, mean_squares in expected.items():
        # Rounded to 8 bits: half a step is a 256th of the smallest mantissa.
        np.testing.assert_allclose(found[tensor], mean_squares.numpy(), rtol=1 / 256 + 1e-3)


def test_the_same_text_gives_the_same_and_another_does_not(folder: Path) -> None:
    once, again = measured(folder, PASSAGES), measured(folder, PASSAGES)
    assert hash_of(once) == hash_of(again)
    assert hash_of(once) != hash_of(measured(folder, PASSAGES[1:]))


def test_the_head_of_a_tied_model_is_its_embedding(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model", TinyShape(tied=True))
    assert ModelTensor(Role.EMBEDDING) in measured(folder, PASSAGES)


def test_it_is_never_zero_and_has_8_bits(folder: Path) -> None:
    for mean_squares in measured(folder, [[7]]).values():
        assert (mean_squares > 0).all()
        mantissa = np.frexp(mean_squares.astype(float))[0] * 256
        np.testing.assert_allclose(mantissa, np.rint(mantissa), atol=1e-3)
