"""mlx-lm: MLX's safetensors on Apple's GPUs, which share the machine's memory, and on CPUs."""

from edgephi.engines.facts.engine import EngineFacts, Prefill, Provider
from edgephi.engines.facts.footprint import Footprint

DATA_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"

_PACKAGE, _EXTRA = "mlx-lm", "mlx"
_ENGINE_BYTES = 150_000_000
"""47 MB measured on a CPU with the demo; the rest is for a larger tokenizer and Metal, not measured."""

_METAL = Provider(
    package=_PACKAGE,
    extra=_EXTRA,
    prefill=Prefill(512),
    footprint=Footprint(_ENGINE_BYTES, cache_bytes_per_number=2, activation_bytes=2),
    stand_in="cpu",
    own_memory=False,
)
_CPU = Provider(
    package=_PACKAGE,
    extra=_EXTRA,
    # MLX's CPU kernels gain nothing from more rows at once.
    prefill=Prefill(16),
    footprint=Footprint(_ENGINE_BYTES, cache_bytes_per_number=4, activation_bytes=4),
    opens_device=False,
    own_memory=False,
)

FACTS = EngineFacts(
    name="mlx-lm",
    exporter="mlx",
    artifact_format="safetensors",
    providers={"metal": _METAL, "cpu": _CPU},
)
