"""llama.cpp: GGUF on CPUs and many GPUs, with the library that the `xllamacpp` wheel brings."""

import dataclasses

from edgephi.engines.facts.engine import EngineFacts, Prefill, Provider
from edgephi.engines.facts.footprint import Footprint
from edgephi.engines.facts.processors import MeasuredProcessor

MODEL_FILE = "model.gguf"

CACHE_STEP = 256
"""Tokens: llama.cpp rounds up the context that it is asked for."""

KEPT_PAST_WINDOW = 256
"""How many tokens that have left a model's attention window our runtime keeps in the cache.

Each takes memory, and time: llama.cpp computes with all cells in use and masks what a token may not see. All
of Phi-3-mini's 4,096 would take a tenth of the decode speed.
"""

_FOOTPRINT = Footprint(
    # Python, the libraries and a vocabulary, which Hugging Face's tokenizer and llama.cpp hold both: 84 MB
    # measured with Phi-3's 32,000 tokens, 201 MB with Phi-4-mini's 200,000; more with more threads.
    engine_bytes=85_000_000,
    token_bytes=700,
    cache_bytes_per_number=2,
    activation_bytes=4,
    # llama.cpp repacks the weights, but our runtime keeps one copy; of a matrix that is embedding and head it
    # packs one and looks up rows in another. Phi-4-mini: 346 MB.
    separates_tied_head=True,
    cache_step=CACHE_STEP,
    kept_past_window=KEPT_PAST_WINDOW,
    # Flash attention, and logits of the last token only: 10 MB beside the cache at 4,096 tokens.
    logits_copies=0,
    keeps_scores=False,
    encoder_bytes=60_000_000,  # onnxruntime
)
_GPU = Provider(
    package="xllamacpp",  # wheels for other providers have the same name
    extra="gguf",
    prefill=Prefill(512),
    # On GPUs estimated, not measured.
    footprint=dataclasses.replace(_FOOTPRINT, logits_copies=2, keeps_scores=True),
    stand_in="cpu",
)
_METAL = dataclasses.replace(_GPU, own_memory=False)
_CPU = dataclasses.replace(
    _GPU,
    prefill=Prefill(64),  # 64 take 3 % longer than 512, and 32 take 20 %
    footprint=_FOOTPRINT,
    stand_in="",
    opens_device=False,
    own_memory=False,
    decode_shares={MeasuredProcessor.WITH_AMX: 0.32, MeasuredProcessor.PLAIN: 0.70},
)

FACTS = EngineFacts(
    name="llama.cpp",
    exporter="gguf",
    artifact_format="gguf",
    providers={"cpu": _CPU, "cuda": _GPU, "metal": _METAL, "vulkan": _GPU, "rocm": _GPU},
    build_modules={"gguf": "build"},
    native_groups="K-quants",
    seeing_extra="gguf-vision",  # with onnxruntime, which runs the image encoder
    blind_tools="seen by edgephi; Ollama and llama-server read words alone",
)
