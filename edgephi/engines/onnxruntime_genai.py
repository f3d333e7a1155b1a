"""ONNX Runtime GenAI: ONNX graphs on CPUs and NVIDIA's GPUs.

Two packages hold the same module, one for CPUs and one for GPUs, which runs on CPUs too.
"""

from pathlib import Path

from edgephi.engines.facts.engine import EngineFacts, Prefill, Provider
from edgephi.engines.facts.footprint import Footprint
from edgephi.engines.facts.processors import MeasuredProcessor

CONFIG_FILE = "genai_config.json"
GRAPH_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
EMBEDDING_GRAPH_FILE = "embedding.onnx"
"""Of a model that sees: ids and rows of images become what `model.onnx` reads, in the engine's pipeline."""
ROWS_GRAPH_FILE = "image_rows.onnx"
"""The decoder of a model that sees as edgephi's runtime opens it, of the same data file.

It reads ids, and rows of images for those below 0. What the engine's pipeline for such models cannot do, such
as to go back to an earlier token or to take a second picture later, it does for a plain decoder.
"""
ADAPTABLE_GRAPH_FILE = "adaptable.onnx"
"""The graph with inputs for adapters, of the same data file; only a bundle with adapters has it."""
TOLD_LENGTH_INPUT = "onnx::Neg_told_length"
"""Of graphs with LongRoPE and experts, block-sparse attention or images: how long a text will be, int64 [1].

LongRoPE's factors are then known before its first piece; 0 where nobody says. An input whose name begins like
this gets a 0 from the engine itself (src/models/extra_inputs.cpp), so the graph runs in its own loops too.
"""
IMAGE_ROWS_INPUT = "image_rows"
"""An input of `image_rows.onnx`, float32 [rows, hidden]: the first is what stands for the id -1."""


def own_graph(artifact: Path) -> Path:
    """The decoder's graph that edgephi's runtime opens, which holds all of its weights."""
    rows_graph = artifact / ROWS_GRAPH_FILE
    return rows_graph if rows_graph.is_file() else artifact / GRAPH_FILE


_CPU = Provider(
    package="onnxruntime-genai",
    extra="cpu",
    # On a CPU 2 to 512 tokens at once gave the same logits, bit for bit, and 16 or more the same speed. Those
    # of every token are computed and kept: 525 MB for a whole 4k prompt of a small model.
    prefill=Prefill(32, told_factors=False, told_large=True),
    footprint=Footprint(
        # Python and the engine without a weight: 70 MB measured with a vocabulary of 32,000, 165 with
        # 200,000; more with more threads.
        engine_bytes=85_000_000,
        token_bytes=500,
        cache_bytes_per_number=4,
        activation_bytes=4,
        logits_copies=1,
        keeps_scores=False,
        # One, in memory that grows by doubling: 60 MB for 34 were measured, with 8,192 tokens and 32 heads.
        sparse_score_copies=2,
        # The kernels pack each matrix anew and keep a scale and a sum for each group beside it, in float32: 7
        # and 28 MB a layer of Phi-3-mini in groups of 128 and 32; 6.2 and 29.3 MB were measured.
        packed_bytes_per_group=8,
        # onnxruntime's own module, which brings its library a second time.
        encoder_bytes=65_000_000,
        # A head of 200,000 words in four layers: 220 MB more while it was opened than after that.
        packs_beside=True,
    ),
    opens_device=False,
    own_memory=False,
    decode_shares={MeasuredProcessor.WITH_AMX: 0.35, MeasuredProcessor.PLAIN: 0.40},
)
_CUDA = Provider(
    package="onnxruntime-genai-cuda",
    extra="cuda",
    prefill=Prefill(512, told_factors=False, told_large=True),
    footprint=Footprint(
        # A CUDA context with cuBLAS, and a matrix that is dequantised for a prefill. Estimated, not measured.
        engine_bytes=750_000_000,
        cache_bytes_per_number=2,
        activation_bytes=2,
    ),
    stand_in="cpu",
)

FACTS = EngineFacts(
    name="onnxruntime-genai",
    exporter="onnx",
    artifact_format="onnx",
    providers={"cpu": _CPU, "cuda": _CUDA},
    build_modules={"onnx": "build"},
    native_groups="zero points",
)
