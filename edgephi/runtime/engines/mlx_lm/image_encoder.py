"""The image encoder of an MLX artifact, a tile at a time."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgephi.engines.mlx_lm import IMAGE_ENCODER_CONFIG_FILE, IMAGE_ENCODER_FILE
from edgephi.runtime.engines.mlx_lm.errors import translated
from edgephi.runtime.engines.mlx_lm.model import for_provider

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
        """The encoder with its weights."""
        import mlx.core as mx
        from mlx.nn import quantize

        from edgephi.runtime.engines.mlx_lm.models.image_encoder import MlxImageEncoder

        config = json.loads((self._artifact / IMAGE_ENCODER_CONFIG_FILE).read_bytes())
        quantization = config.pop("quantization", None)
        stored: Any = mx.load(str(self._artifact / IMAGE_ENCODER_FILE))
        weights = for_provider(stored, self._provider)
        encoder = MlxImageEncoder(config)
        if quantization is not None:
            quantize(
                encoder,
                group_size=quantization["group_size"],
                bits=quantization["bits"],
                class_predicate=lambda path, _: quantization.get(path, f"{path}.scales" in weights),
            )
        encoder.load_weights(list(weights.items()), strict=True)
        mx.eval(encoder.parameters())
        return encoder


def _array(rows: Any) -> NDArray[np.float32]:
    import mlx.core as mx
    import numpy as np

    found: NDArray[np.float32] = np.array(rows.astype(mx.float32))
    return found
