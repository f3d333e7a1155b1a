"""mlx-lm: MLX's safetensors on Apple's GPUs, which share the machine's memory, and on CPUs."""

import dataclasses

from edgephi.engines.facts.engine import EngineFacts, Prefill, Provider
from edgephi.engines.facts.footprint import Footprint

DATA_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"

# Of a model that sees. mlx-lm reads neither: it opens the decoder alone, for texts.
IMAGE_ENCODER_FILE = "image_encoder.safetensors"
IMAGE_ENCODER_CONFIG_FILE = "image_encoder.json"

_PACKAGE, _EXTRA = "mlx-lm", "mlx"
_COMMON = Footprint(
    # Python, MLX and the tokenizer: 67 MB measured on a CPU with a vocabulary of 32,000, 128 with 200,000.
    # And MLX keeps up to 32 MB that were freed.
    engine_bytes=100_000_000,
    token_bytes=400,
    cache_bytes_per_number=4,
    activation_bytes=4,
    cache_step=256,
    logits_copies=0,  # our loop asks the head about the last token only
)
_METAL = Provider(
    package=_PACKAGE,
    extra=_EXTRA,
    prefill=Prefill(512),
    # Estimated, not measured.
    footprint=dataclasses.replace(
        _COMMON, engine_bytes=150_000_000, cache_bytes_per_number=2, activation_bytes=2
    ),
    stand_in="cpu",
    own_memory=False,
)
_CPU = Provider(
    package=_PACKAGE,
    extra=_EXTRA,
    # MLX's CPU kernels gain nothing from more rows at once.
    prefill=Prefill(16),
    # Keys and values are copied for each head that reads them, and six layers are begun before the first is
    # done: with Phi-4-mini, 90 MB at 1,024 tokens and 430 at 4,096, beside the cache.
    footprint=dataclasses.replace(_COMMON, unpacked_layer_caches=6, unpacks_for_each_head=True),
    opens_device=False,
    own_memory=False,
)

FACTS = EngineFacts(
    name="mlx-lm",
    exporter="mlx",
    artifact_format="safetensors",
    providers={"metal": _METAL, "cpu": _CPU},
    native_groups="offsets",
)
