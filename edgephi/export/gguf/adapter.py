"""A LoRA adapter as GGUF, for llama.cpp and for the line `ADAPTER` of an Ollama `Modelfile`.

Source: `llama_adapter_lora_init` in `src/llama-adapter.cpp` of llama.cpp, which multiplies the product by
alpha / rank, and leaves it as it is where alpha is 0.
"""

from pathlib import Path

import gguf
import numpy as np

from edgephi.bundle.manifest import TargetFacts
from edgephi.bundle.switched_adapter import ADAPTERS_FOLDER
from edgephi.checkpoint.adapter.low_rank_factors import AdapterFactors
from edgephi.checkpoint.roles import Role
from edgephi.engines.llama_cpp import MODEL_FILE
from edgephi.export.gguf.modelfile import MODELFILE, modelfile_with_adapter
from edgephi.export.gguf.parts import gguf_name, projection_names
from edgephi.export.gguf.weights import read_tensors


def write_adapter(
    folder: Path,
    name: str,
    factors: AdapterFactors,
    base: Path,
    target: TargetFacts,  # noqa: ARG001 - one file for every kind of processor
) -> str:
    """Write `adapters/NAME/adapter.gguf`, its matrices float16, and a `Modelfile` beside it."""
    place = folder / ADAPTERS_FOLDER / name
    place.mkdir(parents=True)
    file = place / "adapter.gguf"
    stored = read_tensors(base / MODEL_FILE)
    has_experts = any("_exps." in each for each in stored)
    graph = gguf.MODEL_ARCH.PHIMOE if has_experts else gguf.MODEL_ARCH.PHI3
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[graph])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 0.0)  # what multiplies the product is in its matrices
    writer.add_name(name)
    for tensor, own in factors.items():
        # Where the base has query, key and value apart, so has the adapter.
        parts = [gguf_name(tensor)] if gguf_name(tensor) in stored else projection_names(tensor)
        ends = np.cumsum([stored[part].shape[0] for part in parts])[:-1]
        left_of_all = own.left
        if has_experts and tensor.role is Role.ATTENTION_OUTPUT:  # see `centring`
            left_of_all = left_of_all - left_of_all.mean(axis=0)
        for part, left in zip(parts, np.split(left_of_all, ends), strict=True):
            writer.add_tensor(f"{part}.lora_a", own.right.astype(np.float16))
            writer.add_tensor(f"{part}.lora_b", left.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    text = modelfile_with_adapter((base / MODELFILE).read_text("utf-8"), MODEL_FILE, file.name)
    (place / MODELFILE).write_text(text, encoding="utf-8")
    return file.relative_to(folder).as_posix()
