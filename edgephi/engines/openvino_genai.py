"""OpenVINO GenAI: OpenVINO's graphs on CPUs and Intel's GPUs."""

import dataclasses

from edgephi.engines.facts.engine import EngineFacts, Prefill, Provider
from edgephi.engines.facts.footprint import Footprint

GRAPH_FILE = "openvino_model.xml"
DATA_FILE = "openvino_model.bin"

_GPU = Provider(
    package="openvino-genai",
    extra="openvino",
    # On a CPU 64 take a fifth longer, 512 are no faster.
    prefill=Prefill(256),
    # Measured: see docs/targets/openvino.md.
    footprint=Footprint(
        engine_bytes=130_000_000, cache_bytes_per_number=2, activation_bytes=4, weight_copies=2.0
    ),
    stand_in="cpu",
)
_CPU = dataclasses.replace(_GPU, stand_in="", opens_device=False, own_memory=False, makes_code=True)

FACTS = EngineFacts(
    name="openvino-genai",
    exporter="openvino",
    artifact_format="openvino",
    providers={"cpu": _CPU, "gpu": _GPU, "npu": _GPU},
)
