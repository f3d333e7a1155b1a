"""How onnxruntime-genai's own pipeline for images finds its graphs and prepares pictures.

edgephi's runtime prepares them itself. The engine's processor makes up to 16 tiles whatever it is told, and
its thumbnail differs from the published one's: it is there for tools that know nothing better.

Source: the engine's `src/config.cpp` and `test/models/phi3-v`.
"""

from typing import Any

from edgephi.checkpoint.images.image_encoder import ImageEncoder
from edgephi.engines.facts.image_graphs import IMAGE_GRAPH_FILE, PIXELS_INPUT
from edgephi.engines.onnxruntime_genai import EMBEDDING_GRAPH_FILE
from edgephi.export.onnx.images.ends import EMBEDDINGS, FEATURES, IMAGE_SIZES

PROCESSOR_FILE = "processor_config.json"
_EXTENSIONS = "com.microsoft.extensions"


def image_pipeline(session_options: dict[str, Any]) -> dict[str, Any]:
    """The parts of `genai_config.json` that a model which sees has beside its decoder."""
    return {
        "vision": {
            "filename": IMAGE_GRAPH_FILE,
            "config_filename": PROCESSOR_FILE,
            # As it is written: an optimiser would make float32 of all float16 weights once and for all.
            "session_options": {**session_options, "graph_optimization_level": "ORT_DISABLE_ALL"},
            "inputs": {PIXELS_INPUT: PIXELS_INPUT, IMAGE_SIZES: IMAGE_SIZES},
            "outputs": {FEATURES: FEATURES},
        },
        "embedding": {
            "filename": EMBEDDING_GRAPH_FILE,
            "inputs": {"input_ids": "input_ids", FEATURES: FEATURES},
            "outputs": {EMBEDDINGS: EMBEDDINGS},
        },
    }


def processor_config(encoder: ImageEncoder) -> dict[str, Any]:
    """What the engine's processor reads of how images are prepared."""
    sizes = {"num_crops": encoder.crops, "num_img_tokens": encoder.facts.side**2}
    steps = [
        ("decode_image", "DecodeImage", {"color_space": "BGR"}),
        ("convert_to_rgb", "ConvertRGB", {}),
        ("phi3_image_transform", "Phi3ImageTransform", sizes),
    ]
    return {
        "processor": {
            "name": "image_processing",
            "transforms": [
                {"operation": {"name": name, "domain": _EXTENSIONS, "type": kind, "attrs": given}}
                for name, kind, given in steps
            ],
        }
    }
