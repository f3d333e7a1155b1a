"""A LoRA adapter in PEFT's own form, which `openvino_genai.Adapter` reads too.

openvino-genai has one factor for all matrices, and takes none from the file. What multiplies a product is in
the matrices here, so that its factor, as PEFT's, is 1.

Source: `default_lora_patterns` and `LoRAWeightGetterDefault` in `src/cpp/src/lora/adapter.cpp` of
openvino.genai, which finds the products by their names in the graph.
"""

import json
from pathlib import Path

import numpy as np

from edgephi.bundle.manifest import TargetFacts
from edgephi.bundle.switched_adapter import ADAPTERS_FOLDER
from edgephi.checkpoint.adapter.low_rank_factors import AdapterFactors
from edgephi.export.safetensors_file import write_safetensors
from edgephi.export.tensor_names import matrix_name

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"

_PREFIX = "base_model.model."


def write_adapter(
    folder: Path,
    name: str,
    factors: AdapterFactors,
    base: Path,  # noqa: ARG001 - nothing of it is needed
    target: TargetFacts,  # noqa: ARG001 - one file for every kind of processor
) -> str:
    """Write `adapters/NAME/adapter_model.safetensors`, float16, and the configuration that PEFT reads."""
    place = folder / ADAPTERS_FOLDER / name
    place.mkdir(parents=True)
    arrays, ranks = {}, {}
    for tensor, own in factors.items():
        module = matrix_name(tensor)
        ranks[module] = own.rank
        arrays[f"{_PREFIX}{module}.lora_A.weight"] = own.right.astype(np.float16)
        arrays[f"{_PREFIX}{module}.lora_B.weight"] = own.left.astype(np.float16)
    write_safetensors(place / WEIGHTS_FILE, arrays, made_for="pt")
    rank = max(ranks.values())
    other = {module: own for module, own in ranks.items() if own != rank}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "bias": "none",
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": other,
        "alpha_pattern": other,
        "target_modules": sorted(ranks),
    }
    (place / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    return (place / WEIGHTS_FILE).relative_to(folder).as_posix()
