"""An adapter beside the weights of a compiled graph: a branch at each matrix that one of them changes.

The branch adds left · (right · x) to what the matrix makes of x. Its two small matrices are inputs of the
graph, so that one graph and one copy of the weights serve all adapters. Without an adapter they have no
ranks, and what is added is exactly zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgephi.runtime.engines.openvino_genai.adapter_file import SmallMatrices

_WEIGHT_SUFFIX = ".weight"
_RIGHT, _LEFT = ".lora_A", ".lora_B"

Factors = Mapping[str, Any]
"""OpenVINO's tensors for all inputs of the branches, by their names."""


@dataclass(frozen=True)
class Branches:
    """The branches of a graph: rows and columns of the matrices that have one, by their names."""

    openvino: Any
    shapes: Mapping[str, tuple[int, int]]

    def factors(self, adapter: Mapping[str, SmallMatrices]) -> Factors:
        """The tensors for an adapter, float32; an empty one stands for none.

        Raises ValueError where the graph has no such matrix, or one of another shape.
        """
        tensors = {}
        for matrix, (rows, columns) in self.shapes.items():
            own = adapter.get(matrix)
            rank = 0 if own is None else own.right.shape[0]
            right, left = self._tensor(rank, columns), self._tensor(rows, rank)
            if own is not None:
                found = own.left.shape[0], own.right.shape[1]
                if found != (rows, columns):
                    raise ValueError(f"one for a matrix {list(found)} where {matrix} is {[rows, columns]}")
                right.data[...], left.data[...] = own.right, own.left
            tensors[matrix + _RIGHT], tensors[matrix + _LEFT] = right, left
        missing = min(adapter.keys() - self.shapes.keys(), default=None)
        if missing is not None:
            raise ValueError(f"one for {missing[:100]!a}, which the graph does not have")
        return tensors

    def _tensor(self, rows: int, columns: int) -> Any:
        return self.openvino.Tensor(self.openvino.Type.f32, self.openvino.Shape([rows, columns]))


def add_branches(openvino: Any, model: Any, matrices: frozenset[str]) -> Branches:
    """Give those of the `matrices` a branch that the graph has, and nothing where there are none.

    The graph's weights are told by their names, which end in ".weight".
    """
    operators = openvino.opset13
    shapes, parameters = {}, []
    products = [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]
    for product in products:
        weights = product.input_value(1).get_node()
        name = weights.get_friendly_name()
        matrix = name.removesuffix(_WEIGHT_SUFFIX)
        if matrix == name or matrix not in matrices:
            continue
        rows, columns = weights.get_output_shape(0)
        shapes[matrix] = rows, columns
        right = _parameter(openvino, matrix + _RIGHT, [-1, columns])
        left = _parameter(openvino, matrix + _LEFT, [rows, -1])
        parameters += [right, left]
        readers = product.output(0).get_target_inputs()
        small = operators.matmul(product.input_value(0), right, False, True)  # [..., rank]
        change = operators.matmul(small, left, False, True)  # [..., rows]
        changed = operators.add(product.output(0), change)
        for reader in readers:
            reader.replace_source_output(changed.output(0))
    if parameters:
        model.add_parameters(parameters)
        model.validate_nodes_and_infer_types()
    return Branches(openvino, shapes)


def _parameter(openvino: Any, name: str, shape: list[int]) -> Any:
    parameter = openvino.opset13.parameter(shape, openvino.Type.f32, name=name)
    parameter.output(0).set_names({name})
    return parameter
