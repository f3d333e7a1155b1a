"""The dequantised weights of an MLX artifact, read with MLX and nothing of ours.

Names are those of the checkpoint.
"""

from pathlib import Path
from typing import Any

import numpy as np

from tests.export.oracle import Floats


def weights_of(folder: Path) -> dict[str, Floats]:
    """The weights of the artifact in `folder`, float32, under the checkpoint\'s names."""
    import json

    import mlx.core as mx

    stored: Any = mx.load(str(folder / "model.safetensors"))
    quantization = json.loads((folder / "config.json").read_text())["quantization"]
    weights = {}
    for name, array in stored.items():
        prefix, _, part = name.rpartition(".")
        if part not in ("weight", "bias"):
            continue
        whole = array
        if f"{prefix}.scales" in stored:
            own = quantization.get(prefix, quantization)
            whole = mx.dequantize(
                array,
                stored[f"{prefix}.scales"].astype(mx.float32),
                stored[f"{prefix}.biases"].astype(mx.float32),
                group_size=own["group_size"],
                bits=own["bits"],
            )
        weights[name] = np.array(whole.astype(mx.float32))
    return weights
