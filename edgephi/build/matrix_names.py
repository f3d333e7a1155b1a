"""Which matrices the names in a recipe or a manifest mean, and how a manifest names them."""

from collections.abc import Collection, Container, Iterable
from fnmatch import fnmatchcase

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.errors import BadDeclarationError
from edgephi.export.tensor_names import WEIGHT_SUFFIX, matrix_name

EVERY_LAYER = "model.layers.*"
"""The pattern for all matrices of all layers."""


def tensors_named(names: Iterable[str], architecture: Architecture) -> frozenset[ModelTensor]:
    """The matrices of those names, which may be patterns with `*` and `?`, and may end with ".weight".

    "down of layer 2", as messages name it, is a name too. Raises BadDeclarationError for one that none has.
    """
    shapes = architecture.tensor_shapes().items()
    matrices = [tensor for tensor, shape in shapes if len(shape) > 1 and tensor.role is not Role.ROUTER]
    found: set[ModelTensor] = set()
    for name in names:
        pattern = name.removesuffix(WEIGHT_SUFFIX)
        meant = [each for each in matrices if _is_named(each, pattern)]
        if not meant:
            raise BadDeclarationError(_unknown(name, matrices, architecture.layers), hint=_HINT)
        found.update(meant)
    return frozenset(found)


def names_of(tensors: Container[ModelTensor], architecture: Architecture) -> tuple[str, ...]:
    """The names of matrices, in the order in which a model computes with them."""
    return tuple(matrix_name(each) for each in architecture.tensor_shapes() if each in tensors)


_HINT = 'a name may be a pattern: "model.layers.*.mlp.down_proj" is that matrix of every layer'


def _is_named(tensor: ModelTensor, pattern: str) -> bool:
    return fnmatchcase(matrix_name(tensor), pattern) or fnmatchcase(str(tensor), pattern)


def _unknown(name: str, matrices: Collection[ModelTensor], layers: int) -> str:
    expected = ", ".join(matrix_name(each) for each in matrices if each.layer in (0, None))
    return (
        f"quant.keep: tensors: expected the name of a matrix of one of {layers} layers ({expected}), "
        f"found {name[:80]!r}"
    )
