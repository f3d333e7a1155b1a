"""The image encoder of an MLX artifact, a tile at a time."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgephi.engines.mlx_lm import IMAGE_ENCODER_CONFIG_FILE, IMAGE_ENCODER_FILE
from edgephi.runtime.engines.mlx_lm.errors import translated

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class MlxTileEncoder:
    """Encoder and projection, which are read with the first image. They compute on `device`, MLX's."""

    def __init__(self, artifact: Path, provider: str, device: Any) -> None:
        self._artifact = artifact
        self._provider = provider
        self._device = device

    def encode_tile(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """See TileEncoder."""
        import mlx.core as mx

        with translated("expected to encode an image"), mx.stream(self._device):
            tile = mx.array(pixels).transpose(1, 2, 0)[None]  # MLX has colours last
            return _array(self._encoder(tile)[0])

    def separators(self) -> NDArray[np.float32]:
        """See TileEncoder."""
        import mlx.core as mx

        with translated("expected what stands between the parts of an image"), mx.stream(self._device):
            return _array(self._encoder.separators())

    @cached_property
    def _encoder(self) -> Any:
        """The encoder with its weights. On a CPU they are float32: see `load_model`."""
        import mlx.core as mx
        from mlx.nn import quantize

        from edgephi.runtime.engines.mlx_lm.models.image_encoder import MlxImageEncoder

        config = json.loads((self._artifact / IMAGE_ENCODER_CONFIG_FILE).read_bytes())
        quantization = config.pop("quantization", {})
        stored: Any = mx.load(str(self._artifact / IMAGE_ENCODER_FILE))
        encoder = MlxImageEncoder(config)
        if self._provider == "cpu":
            stored = _unpacked(stored, quantization)
        elif quantization:
            quantize(
                encoder,
                group_size=quantization["group_size"],
                bits=quantization["bits"],
                class_predicate=lambda path, _: quantization.get(path, f"{path}.scales" in stored),
            )
        encoder.load_weights(list(stored.items()), strict=True)
        mx.eval(encoder.parameters())
        return encoder


def _unpacked(stored: dict[str, Any], quantization: dict[str, Any]) -> dict[str, Any]:
    """All weights in float32: MLX's products with codes and with float16 are many times slower on a CPU."""
    import mlx.core as mx

    found = {}
    for name, array in stored.items():
        module, _, kind = name.rpartition(".")
        scales = stored.get(f"{module}.scales")
        if scales is None:
            found[name] = array.astype(mx.float32)
        elif kind == "weight":
            own = quantization.get(module, quantization)
            scales, biases = (each.astype(mx.float32) for each in (scales, stored[f"{module}.biases"]))
            found[name] = mx.dequantize(array, scales, biases, group_size=own["group_size"], bits=own["bits"])
        elif kind == "bias":
            found[name] = array.astype(mx.float32)
    return found


def _array(rows: Any) -> NDArray[np.float32]:
    import mlx.core as mx
    import numpy as np

    found: NDArray[np.float32] = np.array(rows.astype(mx.float32))
    return found
