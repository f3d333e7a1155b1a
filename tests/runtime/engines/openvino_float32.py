"""OpenVINO that computes in float32, for tests that compare digits.

A CPU that has units for bfloat16 or int8 uses them unless told otherwise.
"""

from collections.abc import Callable
from typing import Any


def float32_core(openvino: Any) -> Callable[[], Any]:
    """What makes an `openvino.Core` whose graphs are computed in float32."""
    core = openvino.Core

    def precise_core() -> Any:
        made = core()
        made.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0})
        return made

    return precise_core
