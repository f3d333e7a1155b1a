"""Phi-3.5-MoE's graph with the routing that onnxruntime's operator is told to have, in place of edgephi's.

onnxruntime-genai's builder gives `QMoE` the router's scores and `use_sparse_mixer`, and no weights. Nothing
else of the graph changes, neither the weights nor the other operators.

Source: `Phi3MoELongRoPEModel` in onnxruntime-genai's `builders/phi.py`, `make_qmoe_op` in `builders/base.py`.
"""

from pathlib import Path

import onnx
from onnx import helper

from edgephi.engines.onnxruntime_genai import GRAPH_FILE

_ROUTER = "gate.weight"


def route_by_operator(folder: Path) -> None:
    """Change the graph of the artifact in `folder`, which stays as large as it is."""
    model = onnx.load(folder / GRAPH_FILE, load_external_data=False)
    graph = model.graph
    made_by = {output: node for node in graph.node for output in node.output}
    experts = [node for node in graph.node if node.op_type == "QMoE"]
    scores = [node.output[0] for node in graph.node if node.op_type == "MatMul" and _is_router(node, made_by)]
    for node, score in zip(experts, scores, strict=True):
        made_by[node.input[1]].input[0] = score  # what gives it one row for each token
        kept = [each for each in node.attribute if each.name != "normalize_routing_weights"]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("use_sparse_mixer", 1)])
        [scaled] = [other for other in graph.node if node.output[0] in other.input]
        scaled.op_type = "Identity"
        del scaled.input[1:]
    (folder / GRAPH_FILE).write_bytes(model.SerializeToString(deterministic=True))


def _is_router(node: onnx.NodeProto, made_by: dict[str, onnx.NodeProto]) -> bool:
    turned = made_by.get(node.input[1])
    return turned is not None and turned.op_type == "Transpose" and _ROUTER in turned.input[0]
