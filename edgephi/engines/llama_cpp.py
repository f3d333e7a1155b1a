"""llama.cpp: GGUF on CPUs and many GPUs, with the library that the `xllamacpp` wheel brings."""

import dataclasses

from edgephi.engines.facts.engine import EngineFacts, Prefill, Provider
from edgephi.engines.facts.footprint import Footprint

MODEL_FILE = "model.gguf"

_GPU = Provider(
    package="xllamacpp",  # wheels for other providers have the same name
    extra="gguf",
    prefill=Prefill(512),
    # llama.cpp repacks the weights, but our runtime keeps one copy. Python, the library and Phi-3's
    # vocabulary take 64 MB; Phi-4-mini's takes some 80 MB more.
    footprint=Footprint(engine_bytes=150_000_000, cache_bytes_per_number=2, activation_bytes=4),
    stand_in="cpu",
)
_METAL = dataclasses.replace(_GPU, own_memory=False)
_CPU = dataclasses.replace(
    _GPU,
    prefill=Prefill(64),  # 64 take 3 % longer than 512, and 32 take 20 %
    stand_in="",
    opens_device=False,
    own_memory=False,
)

FACTS = EngineFacts(
    name="llama.cpp",
    exporter="gguf",
    artifact_format="gguf",
    providers={"cpu": _CPU, "cuda": _GPU, "metal": _METAL, "vulkan": _GPU, "rocm": _GPU},
    build_modules={"gguf": "build"},
)
