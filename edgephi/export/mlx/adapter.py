"""A LoRA adapter as mlx-lm's own: `adapters.safetensors` and `adapter_config.json`.

mlx-lm has one rank and one scale for all modules. What multiplies a product is in its matrices here, and the
smaller ranks are filled up with zeros, so that `mlx_lm.load(..., adapter_path=...)` computes the same.

Source: `load_adapters` in `mlx_lm/tuner/utils.py`, `LoRALinear` in `mlx_lm/tuner/lora.py`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgephi.bundle.manifest import TargetFacts
from edgephi.bundle.switched_adapter import ADAPTERS_FOLDER
from edgephi.checkpoint.adapter.low_rank_factors import AdapterFactors
from edgephi.checkpoint.roles import ModelTensor
from edgephi.checkpoint.weights.safetensors import read_header
from edgephi.engines.mlx_lm import DATA_FILE
from edgephi.export.safetensors_file import write_safetensors
from edgephi.export.tensor_names import WEIGHT_SUFFIX, matrix_name

WEIGHTS_FILE = "adapters.safetensors"
CONFIG_FILE = "adapter_config.json"


def write_adapter(
    folder: Path,
    name: str,
    factors: AdapterFactors,
    base: Path,
    target: TargetFacts,  # noqa: ARG001 - one file for every kind of processor
) -> str:
    """Write `adapters/NAME/adapters.safetensors`, float16 and transposed, and what tells mlx-lm of it."""
    place = folder / ADAPTERS_FOLDER / name
    place.mkdir(parents=True)
    rank = max(own.rank for own in factors.values())
    rows = {entry.name: entry.shape[0] for entry in read_header(base / DATA_FILE).entries}
    arrays, modules = {}, []
    for tensor, own in factors.items():
        missing = rank - own.rank
        for module, left in _modules(tensor, own.left, rows):
            modules.append(module)
            arrays[f"{module}.lora_a"] = _half(own.right.T, 0, missing)  # [columns, rank]
            arrays[f"{module}.lora_b"] = _half(left.T, missing, 0)  # [rank, rows]
    write_safetensors(place / WEIGHTS_FILE, arrays, made_for="mlx")
    keys = sorted({_key(module) for module in modules})
    parameters = {"rank": rank, "scale": 1.0, "dropout": 0.0, "keys": keys}
    config = {"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": parameters}
    (place / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    return (place / WEIGHTS_FILE).relative_to(folder).as_posix()


def _modules(
    tensor: ModelTensor, left: NDArray[np.float32], rows: Mapping[str, int]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The modules that a tensor is in an artifact, whose tensors have `rows`, and what of `left` each has.

    Query, key and value are apart in a mixture of experts.
    """
    name = matrix_name(tensor)
    if f"{name}{WEIGHT_SUFFIX}" in rows:
        yield name, left
        return
    first = 0
    for part in "qkv":
        module = name.replace("qkv_proj", f"{part}_proj")
        count = rows[f"{module}{WEIGHT_SUFFIX}"]
        yield module, left[first : first + count]
        first += count


def _half(matrix: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float16]:
    """float16, with so many rows and columns of zeros behind."""
    return np.pad(matrix, ((0, rows), (0, columns))).astype(np.float16)


def _key(module: str) -> str:
    """The name of a module within its layer, or the whole where it is in none."""
    _, _, within = module.partition(".layers.")
    return within.partition(".")[2] or module
