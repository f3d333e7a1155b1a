"""Qualcomm's NPU, the Hexagon HTP, through onnxruntime's plugin for it; and Qualcomm's emulator of it."""

import dataclasses

from edgephi.engines.facts.engine import EngineFacts, Prefill, Provider
from edgephi.engines.facts.footprint import Footprint

CONFIG_FILE = "qnn.json"
GRAPHS_FOLDER = "graphs"
"""What the context binaries were compiled from."""

CHUNK = 64
"""Prompt tokens that one call computes: a size that is compiled into the graphs."""

PLUGIN = "QNNExecutionProvider"
"""The name that the plugin must be registered under: its devices go by it, and its binaries too."""

NPU, EMULATION = "htp", "htp-emulation"

_HTP = Provider(
    package="onnxruntime-qnn",
    extra="qnn",
    prefill=Prefill(CHUNK),
    # What onnxruntime and Qualcomm's libraries take beside weights and cache: estimated, not measured.
    footprint=Footprint(engine_bytes=250_000_000, cache_bytes_per_number=2, activation_bytes=2),
    stand_in=EMULATION,
    own_memory=False,
)
# Nobody has tried whether the emulator runs where machine code must not be written.
_EMULATION = dataclasses.replace(_HTP, stand_in="", opens_device=False, makes_code=True)

FACTS = EngineFacts(
    name="qnn",
    exporter="qnn",
    artifact_format="qnn",
    providers={NPU: _HTP, EMULATION: _EMULATION},
    # The compiler comes with the runtime.
    build_modules={"onnx": "build", "onnxruntime": "qnn", "onnxruntime_qnn": "qnn"},
    file_copies=2,
    unloaded_folders=(GRAPHS_FOLDER,),
    row_scales=True,
)
