"""What an export found out about its quantisation, as the bundle keeps it."""

from collections.abc import Iterable, Sequence

from edgephi.bundle.quantisation import SCHEMA, Quantisation, QuantisedTensor
from edgephi.checkpoint.roles import ModelTensor
from edgephi.export.stream.data_file import TensorError
from edgephi.export.tensor_names import matrix_name, tensor_name

_DIGITS = 3
"""Significant ones: another processor may add in another order, and a bundle must not depend on it."""


def quantisation_of(errors: Sequence[TensorError], tensors: Iterable[ModelTensor]) -> Quantisation | None:
    """The record of all errors; None where there are none, because another tool chose the codes.

    `tensors` are those of the model, by whose names exporters call theirs.
    """
    if not errors:
        return None
    named = {tensor_name(tensor): tensor for tensor in tensors}
    return Quantisation(SCHEMA, tuple(_quantised(error, named[error.name]) for error in errors))


def _quantised(error: TensorError, tensor: ModelTensor) -> QuantisedTensor:
    scheme = error.scheme
    return QuantisedTensor(
        name=matrix_name(tensor),
        role=tensor.role.value,
        layer=tensor.layer,
        weights=error.weights,
        bytes=error.bytes,
        bits=scheme.bits,
        group_size=scheme.group_size,
        symmetric=scheme.symmetric,
        scales=scheme.scales,
        relative_squared_error=_rounded(error.relative_squared_error),
        weighted_relative_squared_error=_rounded_if_any(error.weighted_relative_squared_error),
        weighted_squared_error=_rounded_if_any(error.weighted_squared_error),
    )


def _rounded(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")


def _rounded_if_any(number: float | None) -> float | None:
    return None if number is None else _rounded(number)
