"""LoRA adapters for onnxruntime-genai: `adapters/NAME.onnx_adapter`, and a graph with places for them.

The graph `adaptable.onnx` is the bundle's own, of the same data file, with `+ (x A) B` behind each matrix
that an adapter changes. A and B are inputs with a default of rank 0, so that without an adapter nothing is
added to any number, and the engine gives them an adapter's matrices when one is switched on.

Source: onnxruntime's `docs/ORTMultiLoRA` and `include/onnxruntime/core/session/lora_adapter.h`, and
onnxruntime-genai's `Adapters`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgephi.bundle.manifest import TargetFacts
from edgephi.bundle.switched_adapter import ADAPTERS_FOLDER
from edgephi.checkpoint.adapter.low_rank_factors import AdapterFactors
from edgephi.checkpoint.roles import ModelTensor
from edgephi.commands import install_command
from edgephi.engines.onnxruntime_genai import ADAPTABLE_GRAPH_FILE, FACTS, own_graph
from edgephi.errors import NotSupportedError
from edgephi.export.tensor_names import matrix_name, tensor_name

_MATRIX_OPERATOR = "MatMulNBits"
_CODES = ".codes"
_VERSION = 1  # of the adapter, and of the model that it is for: nobody reads them yet


def write_adapter(folder: Path, name: str, factors: AdapterFactors, base: Path, target: TargetFacts) -> str:
    """Write `adapters/NAME.onnx_adapter`, and what its matrices need into `adaptable.onnx`.

    Its matrices have the type of the graph's activations. Raises NotSupportedError where onnxruntime is
    missing, whose own writer writes the file, and for a graph that is not edgephi's.
    """
    try:
        import onnxruntime
    except ImportError:
        raise NotSupportedError(
            "onnxruntime writes the adapters of this engine, and is not installed",
            hint=install_command(FACTS.provider(target.provider).extra),
        ) from None
    graph_file = folder / ADAPTABLE_GRAPH_FILE
    before = graph_file if graph_file.is_file() else own_graph(base)
    model = onnx.load(before, load_external_data=False)
    kind = _with_places(model, list(factors), before)
    graph_file.write_bytes(model.SerializeToString(deterministic=True))
    parameters: dict[str, Any] = {}
    for tensor, own in factors.items():
        for part, array in zip(_inputs(tensor), (own.right.T, own.left.T), strict=True):
            typed = np.ascontiguousarray(array, dtype=kind)  # [columns, rank] and [rank, rows]
            parameters[part] = onnxruntime.OrtValue.ortvalue_from_numpy(typed)
    adapter = onnxruntime.AdapterFormat()
    adapter.set_adapter_version(_VERSION)
    adapter.set_model_version(_VERSION)
    adapter.set_parameters(parameters)
    file = folder / ADAPTERS_FOLDER / f"{name}.onnx_adapter"
    file.parent.mkdir(exist_ok=True)
    adapter.export_adapter(str(file))
    return file.relative_to(folder).as_posix()


def _with_places(model: onnx.ModelProto, tensors: list[ModelTensor], file: Path) -> np.dtype[Any]:
    """Give the graph places for the matrices of `tensors`, where it has none. Returns the type of these."""
    graph = model.graph
    there = {value.name for value in graph.input}
    scales = {each.name: each.data_type for each in graph.initializer}
    wanted = {tensor_name(tensor): tensor for tensor in tensors}
    nodes, kind = [], np.dtype(np.float32)
    for node in graph.node:
        matrix = node.input[1].removesuffix(_CODES) if node.op_type == _MATRIX_OPERATOR else ""
        tensor = wanted.pop(matrix, None)
        nodes.append(node)
        if tensor is None:
            continue
        kind = helper.tensor_dtype_to_np_dtype(scales[node.input[2]])
        if _inputs(tensor)[0] in there:
            continue
        nodes += _branch(graph, node, tensor, kind)
    if wanted:
        raise NotSupportedError(
            f"{file}: expected the graph that edgephi writes, found none for {min(wanted)} in it",
            hint="build the bundle again without --exporter upstream",
        )
    del graph.node[:]
    graph.node.extend(nodes)
    return kind


def _branch(
    graph: onnx.GraphProto, node: onnx.NodeProto, tensor: ModelTensor, kind: np.dtype[Any]
) -> list[onnx.NodeProto]:
    """What goes behind a matrix; it takes the name of its product, by which others know the sum."""
    sizes = {attribute.name: attribute.i for attribute in node.attribute}
    columns, rows = sizes["K"], sizes["N"]
    right, left = _inputs(tensor)
    rank = f"{matrix_name(tensor)}.rank"
    for name, shape, default in ((right, [columns, rank], (columns, 0)), (left, [rank, rows], (0, rows))):
        graph.initializer.append(numpy_helper.from_array(np.zeros(default, kind), name))
        graph.input.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(kind), shape))
    product = node.output[0]
    node.output[0] = f"{product}.base"
    small, added = f"{product}.small", f"{product}.added"
    return [
        helper.make_node("MatMul", [node.input[0], right], [small], f"{product}.right"),
        helper.make_node("MatMul", [small, left], [added], f"{product}.left"),
        helper.make_node("Add", [node.output[0], added], [product], f"{product}.sum"),
    ]


def _inputs(tensor: ModelTensor) -> tuple[str, str]:
    """The names of the graph's inputs for the two matrices of a tensor."""
    return f"{matrix_name(tensor)}.lora_A", f"{matrix_name(tensor)}.lora_B"
