"""The names of the activations that the reference shows, for those who measure them or round them.

Those of a layer begin with the layer: `in_layer(0, "mlp.gate")`. Its parts are `input` and `attended`, the
residual stream before and after its attention, and what `self_attn.…` and `mlp.…` begin.
"""

FINAL_NORM_INPUT = "model.norm.input"
FINAL_NORM_OUTPUT = "model.norm.output"
LOGITS = "logits"


def in_layer(layer: int, part: str) -> str:
    """The name of an activation of a layer."""
    return f"model.layers.{layer}.{part}"
