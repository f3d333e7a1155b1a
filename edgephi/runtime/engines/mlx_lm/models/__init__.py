"""The models that mlx-lm's parts compute, a module for each `model_type` of a `config.json`.

Its `CLASSES` are those of a model and of its configuration, which mlx-lm's loader takes as well
(`get_model_classes` of `mlx_lm.utils.load_model`). Such a model has a `head` besides, from hidden states to
logits: a prompt's other tokens need none. They import MLX and mlx-lm, so they are imported with a bundle.
"""

import importlib
from typing import Any

MODEL_TYPES = ("phi3", "phimoe", "phi3small")


def classes_of(model_type: str) -> tuple[Any, Any]:
    """The classes of a model type. Raises ValueError for another than these, whatever a file may name."""
    if model_type not in MODEL_TYPES:
        raise ValueError(f"expected the model_type {', '.join(MODEL_TYPES)}, found {model_type!r}")
    model, arguments = importlib.import_module(f"{__name__}.{model_type}").CLASSES
    return model, arguments
