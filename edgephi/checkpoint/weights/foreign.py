"""Weights that no build can start from, each named as what it is: quantised already, or a classifier's.

Sources of the names: what AutoGPTQ, AutoAWQ, bitsandbytes, compressed-tensors, mlx-lm and transformers save.
"""

from collections.abc import Iterable

from edgephi.checkpoint.weights.safetensors import TensorEntry
from edgephi.errors import NotSupportedError

ORIGINAL_HINT = "give the original checkpoint: edgephi quantises it itself"

# What a name ends with or contains, and who writes it; the first that fits any tensor is said.
_QUANTISED_ENDS = {
    (".qweight", ".qzeros", ".g_idx"): "GPTQ or AWQ",
    (".absmax", ".quant_map", ".SCB"): "bitsandbytes",
    (".weight_packed", ".weight_shape"): "compressed-tensors",
    (".weight_scale", ".weight_scale_inv", ".input_scale", ".k_scale", ".v_scale"): "FP8",
    (".W_q",): "HQQ",
}
_MLX_ENDS = (".scales", ".biases")
_QUANTISED_TYPES = {"U32": "MLX", "F8_": "FP8", "F4": "FP4", "F6_": "FP6"}
_ADAPTER_PART = ".lora_"
_CLASSIFIER_HEADS = ("score.weight", "classifier.weight", "qa_outputs.weight")


def check_original(place: str, entries: Iterable[TensorEntry]) -> None:
    """Raise NotSupportedError for tensors of a checkpoint that is no original language model.

    `place` names it.
    """
    by_name = {entry.name: entry for entry in entries}
    for name, entry in by_name.items():
        method = _quantised_by(entry)
        if method is not None:
            raise NotSupportedError(
                f"{place}: expected original weights, found a checkpoint that is quantised already "
                f"({method}): {name} of type {entry.dtype}",
                hint=ORIGINAL_HINT,
            )
        if _ADAPTER_PART in name:
            raise NotSupportedError(
                f"{place}: expected a checkpoint, found the tensors of an adapter: {name}",
                hint="merge it where it was trained, or build its base with --adapter",
            )
    for name in _CLASSIFIER_HEADS:
        if name in by_name:
            raise NotSupportedError(
                f"{place}: expected a model that writes text, found a classifier: its head is {name}",
                hint="give a checkpoint with a language model's head",
            )


def _quantised_by(entry: TensorEntry) -> str | None:
    for ends, method in _QUANTISED_ENDS.items():
        if entry.name.endswith(ends):
            return method
    if entry.name.endswith(_MLX_ENDS):
        return "MLX"
    return next((method for start, method in _QUANTISED_TYPES.items() if entry.dtype.startswith(start)), None)
