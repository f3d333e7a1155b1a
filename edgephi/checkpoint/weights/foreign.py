"""What no build can start from, each named as what it is: quantised, a part of a model, another format.

Sources of the names: what AutoGPTQ, AutoAWQ, bitsandbytes, compressed-tensors, mlx-lm, PEFT and transformers
save, and the repositories of Meta and Mistral with their own formats.
"""

from collections.abc import Iterable

from edgephi.checkpoint.weights.safetensors import TensorEntry
from edgephi.commands import edgephi_command
from edgephi.errors import BadCheckpointError, NotSupportedError

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
_ADAPTER_FILE = "adapter_config.json"
_EMBEDDING = "embed_tokens.weight"
_BEFORE_NAMES = "model."
# Files of makers' own formats, by what their names begin and end with, and what converts them.
_OWN_FORMATS = {
    ("consolidated", ".safetensors"): ("Mistral", "convert_mistral_weights_to_hf.py"),
    ("consolidated", ".pth"): ("Meta", "convert_llama_weights_to_hf.py"),
}
_GGUF_SUFFIX = ".gguf"
_CLASSIFIER_HEADS = ("score.weight", "classifier.weight", "qa_outputs.weight")


def other_kind(place: str, files: Iterable[str]) -> BadCheckpointError | None:
    """The error for `files` that are no checkpoint of transformers, where it is known what else they are.

    `place` is the folder or the hub id that holds them.
    """
    names = sorted(files)
    if _ADAPTER_FILE in names and "config.json" not in names:
        return BadCheckpointError(
            f"{place}: expected a checkpoint, found an adapter for one",
            hint=f"give the checkpoint, and the adapter with it: "
            f"`{edgephi_command('build', 'CHECKPOINT', '--adapter', place)}`, and the rest",
        )
    for (start, end), (maker, script) in _OWN_FORMATS.items():
        own = next((name for name in names if name.startswith(start) and name.endswith(end)), None)
        if own is not None:
            return BadCheckpointError(
                f"{place}: expected a checkpoint as transformers saves it, found {maker}'s own format: {own}",
                hint="give the model with config.json and model.safetensors: most makers publish both, and "
                f"{script} of transformers makes one of the other",
            )
    gguf = next((name for name in names if name.endswith(_GGUF_SUFFIX)), None)
    if gguf is not None:
        return BadCheckpointError(
            f"{place}: expected a checkpoint as transformers saves it, found {gguf}",
            hint="a GGUF file is what a build makes, for llama.cpp: give the original checkpoint",
        )
    return None


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
    _check_whole(place, by_name)
    for name in _CLASSIFIER_HEADS:
        if name in by_name:
            raise NotSupportedError(
                f"{place}: expected a model that writes text, found a classifier: its head is {name}",
                hint="give a checkpoint with a language model's head",
            )


def _check_whole(place: str, names: Iterable[str]) -> None:
    """Raise NotSupportedError for the tensors of what is within a language model, or around one."""
    for name in names:
        before = name.removesuffix(_EMBEDDING)
        if before in (name, _BEFORE_NAMES) or not f".{before}".endswith("."):
            continue  # another tensor, that of the model, or one of a longer name
        if not before:
            raise NotSupportedError(
                f"{place}: expected a model that writes text, found the inner model alone, whose names have "
                f"no {_BEFORE_NAMES!r} before them: {name}",
                hint="save the whole language model where it was trained: with AutoModelForCausalLM of "
                "transformers, not AutoModel",
            )
        raise NotSupportedError(
            f"{place}: expected {_BEFORE_NAMES}{_EMBEDDING}, found {name}",
            hint="save the model itself where it was trained, not what is wrapped around it (torch.compile, "
            "DataParallel, PEFT)",
        )


def _quantised_by(entry: TensorEntry) -> str | None:
    for ends, method in _QUANTISED_ENDS.items():
        if entry.name.endswith(ends):
            return method
    if entry.name.endswith(_MLX_ENDS):
        return "MLX"
    return next((method for start, method in _QUANTISED_TYPES.items() if entry.dtype.startswith(start)), None)
