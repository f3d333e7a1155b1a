"""The dequantised weights of an OpenVINO artifact, read with OpenVINO and nothing of ours.

Names are those of the checkpoint.
"""

from pathlib import Path

import numpy as np

from tests.export.oracle import Floats


def weights_of(folder: Path, graph_file: str = "openvino_model.xml") -> dict[str, Floats]:
    """The weights of one graph of the artifact in `folder`, float32, under the checkpoint's names."""
    import openvino
    from openvino import opset14

    core = openvino.Core()
    constants = {
        node.get_friendly_name(): node
        for node in core.read_model(folder / graph_file).get_ordered_ops()
        if node.get_type_name() == "Constant"
    }

    def numbers(name: str) -> Floats:
        """A constant as OpenVINO unpacks it."""
        model = openvino.Model([opset14.convert(constants[name], "f32")], [])
        (value,) = core.compile_model(model, "CPU")().values()
        return np.array(value, dtype=np.float32)

    weights = {}
    for name, node in constants.items():
        label, _, part = name.rpartition("/")
        if part == "codes":
            middle = "zero_points" if f"{label}/zero_points" in constants else "zero_point"
            codes, scales = numbers(name), numbers(f"{label}/scales")
            groups = (codes - numbers(f"{label}/{middle}")) * scales
            weights[label] = groups.reshape(*codes.shape[:-2], -1)
        elif part == "numbers":
            assert node.get_element_type() == openvino.Type.f16
            weights[label] = numbers(name)
        elif name.endswith((".weight", ".bias", ".class_embedding")):
            assert node.get_element_type() == openvino.Type.f32
            weights[name] = numbers(name)
    return weights
