"""The names of matrices in recipes and manifests: what they mean, and what is said of one that none has."""

import dataclasses

import pytest

from edgephi.build.matrix_names import names_of, tensors_named
from edgephi.build.shapes import architecture_of
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import EMBEDDING, HEAD, ModelTensor, Role
from edgephi.declared.recipe import read_recipe
from edgephi.errors import BadDeclarationError
from edgephi.export.tensor_names import matrix_name

DOWN = ModelTensor(Role.DOWN, 2)


def mini(*, tied: bool = False) -> Architecture:
    shape = read_recipe("phi-3-mini-4k").model.shape
    assert shape is not None
    return architecture_of(dataclasses.replace(shape, tied_embeddings=tied))


@pytest.mark.parametrize(
    "name", ["model.layers.2.mlp.down_proj", "model.layers.2.mlp.down_proj.weight", "down of layer 2"]
)
def test_one_matrix(name: str) -> None:
    assert tensors_named([name], mini()) == {DOWN}
    assert matrix_name(DOWN) == "model.layers.2.mlp.down_proj"


def test_a_pattern_means_every_matrix_that_it_fits() -> None:
    found = tensors_named(["model.layers.1?.mlp.*", "lm_head"], mini())
    assert found == {
        HEAD,
        *(ModelTensor(role, layer) for role in (Role.GATE_UP, Role.DOWN) for layer in range(10, 20)),
    }
    # A norm is no matrix.
    assert len(tensors_named(["model.layers.0.*"], mini())) == 4


def test_names_stand_in_the_order_of_the_model() -> None:
    found = names_of({HEAD, DOWN, EMBEDDING, ModelTensor(Role.ATTENTION_OUTPUT, 2)}, mini())
    assert found == (
        "model.embed_tokens",
        "model.layers.2.self_attn.o_proj",
        "model.layers.2.mlp.down_proj",
        "lm_head",
    )
    assert names_of(tensors_named(found, mini()), mini()) == found


@pytest.mark.parametrize("name", ["model.layers.32.mlp.down_proj", "model.norm", "", "x" * 500])
def test_a_name_that_no_matrix_has(name: str) -> None:
    with pytest.raises(BadDeclarationError) as caught:
        tensors_named(["model.embed_tokens", name], mini())
    message = caught.value.message
    assert "quant.keep: tensors: expected the name of a matrix of one of 32 layers" in message
    assert "model.layers.0.mlp.down_proj" in message
    assert f"found {name[:80]!r}" in message


def test_a_tied_head_is_the_embedding() -> None:
    with pytest.raises(BadDeclarationError, match="found 'lm_head'"):
        tensors_named(["lm_head"], mini(tied=True))
