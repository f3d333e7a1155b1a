"""Whether a compiled graph computes only those experts that the router chose for a token.

OpenVINO finds out by the shape of the graph. Where it does not recognise it, all experts are computed for
every token, rightly and without a word, and many times slower: such a graph is refused.
"""

from __future__ import annotations

from typing import Any

from edgephi.commands import edgephi_command
from edgephi.engines.openvino_genai import CHOSEN_EXPERTS_KERNEL, FACTS
from edgephi.errors import NotSupportedError


def expert_products(model: Any) -> int:
    """The number of products with stacks of matrices in a graph that is not compiled yet."""
    products = [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]
    shapes = [product.input_value(1).get_partial_shape() for product in products]
    return sum(shape.is_static and len(shape) == 3 for shape in shapes)


def check_experts(products: int, compiled: Any, device: str) -> None:
    """Raise NotSupportedError when not all of so many products became one with the chosen matrices alone.

    Of a CPU only: others have other names for what they do.
    """
    if not products or device != "CPU":
        return
    layers = compiled.get_runtime_model().get_ops()
    found = sum(layer.get_rt_info()["layerType"].astype(str) == CHOSEN_EXPERTS_KERNEL for layer in layers)
    if found < products:
        raise NotSupportedError(
            f"expected {FACTS.name} to compute only the experts that are chosen, in {products} products, "
            f"found {found}: it would compute all of them for every token",
            hint=f"`{edgephi_command('doctor')}` shows its version; build the bundle again for this one",
        )
