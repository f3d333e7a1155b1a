"""What is changed in a graph before it is compiled, so that it can be told more: see `decoder`."""

from __future__ import annotations

from typing import Any

TOTAL_LENGTH = "total_length"
"""The name of the layer that is replaced, and of the input in its place."""
KEPT = "logits_kept"

_LARGEST = (1 << 63) - 1


def layers_named(model: Any, name: str) -> list[Any]:
    """The layers of that name: one or none."""
    return [layer for layer in model.get_ops() if layer.get_friendly_name() == name]


def add_total_length(openvino: Any, model: Any) -> bool:
    """Put an input in the place of the layer that finds the length; returns whether there is one."""
    layers = layers_named(model, TOTAL_LENGTH)
    for layer in layers:
        total = _parameter(openvino, model, TOTAL_LENGTH, [])
        layer.output(0).replace(total.output(0))
    return bool(layers)


def add_kept(openvino: Any, model: Any, *, axis: int) -> None:
    """Cut the hidden states along `axis` before the head computes logits from them."""
    head = _head(model)
    if head is None:
        return
    operators = openvino.opset13
    kept = _parameter(openvino, model, KEPT, [1])
    to_the_end = [operators.constant([each], openvino.Type.i64) for each in (_LARGEST, 1, axis)]
    last = operators.slice(head.input_value(0), operators.negative(kept), *to_the_end)
    head.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


def _head(model: Any) -> Any:
    """The product that makes logits of hidden states, be they scaled, moved or chosen from after it."""
    node = model.output("logits").get_node().input_value(0).get_node()
    while node.get_type_name() in ("Add", "Multiply", "Select"):
        sources = [each.get_node() for each in node.input_values()]
        changing = [each for each in sources if each.get_type_name() != "Constant"]
        if len(changing) != 1:
            return None
        (node,) = changing
    return node if node.get_type_name() == "MatMul" else None


def _parameter(openvino: Any, model: Any, name: str, shape: list[int]) -> Any:
    parameter = openvino.opset13.parameter(shape, openvino.Type.i64, name=name)
    parameter.output(0).set_names({name})
    model.add_parameters([parameter])
    return parameter
