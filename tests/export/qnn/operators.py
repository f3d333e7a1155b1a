"""Single operators on the HTP, in emulation: what Qualcomm's compiler makes of types and options."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.export.qnn.emulator import htp_session

Floats = NDArray[np.float32]
LARGEST = 4.0
"""All quantised values lie between this and its negative."""

_WIDTH = 64
_GROUP = 32


def quantised_operator(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, ...]],
    result: tuple[int, ...],
    weights: list[onnx.TensorProto],
    *,
    kinds: dict[str, str] | None = None,
) -> onnx.ModelProto:
    """`nodes` from `NAME_real` of each input to `y_real`, all quantised: uint16, or a type of `kinds`."""
    initializers = list(weights)

    def rounded(value: str, name: str, kind: str) -> list[onnx.NodeProto]:
        middle = 0 if kind == "int16" else 32768
        initializers.append(numpy_helper.from_array(np.array(LARGEST / 32767, np.float32), f"{name}.scale"))
        initializers.append(numpy_helper.from_array(np.array(middle, kind), f"{name}.middle"))
        parameters = [f"{name}.scale", f"{name}.middle"]
        return [
            helper.make_node("QuantizeLinear", [value, *parameters], [f"{name}_numbers"]),
            helper.make_node("DequantizeLinear", [f"{name}_numbers", *parameters], [name]),
        ]

    rounding = [
        node for name in inputs for node in rounded(name, f"{name}_real", (kinds or {}).get(name, "uint16"))
    ]
    graph = helper.make_graph(
        [*rounding, *nodes, *rounded("y_real", "y", "uint16")],
        "operator",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, result)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def convolution_error(options: dict[str, str], *, zero_points: bool = True, groups: bool = False) -> float:
    """Relative error of a 1x1 convolution with 4-bit weights: a scale a row, or multiples of it in groups."""
    random = np.random.default_rng(0)
    codes = random.integers(-7, 8, (_WIDTH, _WIDTH, 1, 1)).astype(np.int8)
    scales = np.full((_WIDTH, 1), 0.01, np.float32)
    attributes = {"axis": 0}
    if groups:
        multiples = random.integers(1, 17, (_WIDTH, _WIDTH // _GROUP))
        multiples[:, 0] = 16
        scales = (scales / 16 * multiples).astype(np.float32)
        attributes = {"axis": 1, "block_size": _GROUP}
    shape = (*scales.shape, 1, 1) if groups else (_WIDTH,)
    weights = [
        helper.make_tensor("codes", TensorProto.INT4, codes.shape, codes.ravel()),
        numpy_helper.from_array(scales.reshape(shape), "scales"),
    ]
    if zero_points:
        weights.append(helper.make_tensor("zeros", TensorProto.INT4, shape, np.zeros(scales.size, np.int8)))
    x = random.uniform(-1, 1, (1, _WIDTH, 1, 4)).astype(np.float32)
    model = quantised_operator(
        [
            helper.make_node("DequantizeLinear", [each.name for each in weights], ["kernel"], **attributes),
            helper.make_node("Conv", ["x_real", "kernel"], ["y_real"], kernel_shape=[1, 1]),
        ],
        {"x": x.shape},
        x.shape,
        weights,
    )
    matrix = codes[..., 0, 0] * np.repeat(scales, _WIDTH // scales.shape[1], axis=1)
    return _error(model, {"x": x}, np.einsum("rc,bcht->brht", matrix, x), options)


def product_error(options: dict[str, str], kind: str) -> float:
    """Relative error of a product of two activations, uint16 and `kind`."""
    random = np.random.default_rng(0)
    x, w = (random.uniform(-0.5, 0.5, (1, 2, 16, 16)).astype(np.float32) for _ in range(2))
    model = quantised_operator(
        [helper.make_node("MatMul", ["x_real", "w_real"], ["y_real"])],
        {"x": x.shape, "w": w.shape},
        x.shape,
        [],
        kinds={"w": kind},
    )
    return _error(model, {"x": x, "w": w}, x @ w, options)


def _error(
    model: onnx.ModelProto, values: dict[str, Floats], expected: NDArray[Any], options: dict[str, str]
) -> float:
    (found,) = htp_session(model.SerializeToString(), options).run(None, values)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
