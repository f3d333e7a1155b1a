"""The dequantised weights of an OpenVINO artifact, read with OpenVINO and nothing of ours.

Names are those of the checkpoint.
"""

from pathlib import Path

import numpy as np

from tests.export.oracle import Floats


def weights_of(folder: Path) -> dict[str, Floats]:
    """The weights of the artifact in `folder`, float32, under the checkpoint\'s names."""
    import openvino
    from openvino import opset14

    core = openvino.Core()
    constants = {
        node.get_friendly_name(): node
        for node in core.read_model(folder / "openvino_model.xml").get_ordered_ops()
        if node.get_type_name() == "Constant"
    }

    def numbers(name: str) -> Floats:
        """A constant as OpenVINO unpacks it."""
        model = openvino.Model([opset14.convert(constants[name], "f32")], [])
        (value,) = core.compile_model(model, "CPU")().values()
        return np.array(value, dtype=np.float32)

    weights = {}
    for name in constants:
        label, _, part = name.rpartition("/")
        if part == "codes":
            codes, scales = numbers(name), numbers(f"{label}/scales")
            weights[label] = ((codes - numbers(f"{label}/zero_point")) * scales).reshape(len(codes), -1)
        elif name.endswith("norm.weight"):
            weights[name] = numbers(name)
    return weights
