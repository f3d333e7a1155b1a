"""The image encoder of an OpenVINO artifact, a tile at a time.

`VLMPipeline` of openvino-genai computes all tiles at once, cuts images in another way than the model was
trained with, and takes the height of a grid for its width. Its graphs are right, and they are what computes.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgephi.bundle.image_tokens import ImageFacts
from edgephi.engines.openvino_genai import (
    CONFIG_FILE,
    IMAGE_ENCODER_GRAPH_FILE,
    IMAGE_PROJECTION_GRAPH_FILE,
    LINE_END_KEY,
    SEPARATOR_KEY,
)
from edgephi.runtime.engines.openvino_genai.errors import translated
from edgephi.runtime.engines.openvino_genai.request import GraphRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class OpenvinoTileEncoder:
    """The graphs of encoder and projection, which are compiled with the first image."""

    def __init__(self, openvino: Any, core: Any, artifact: Path, device: str, facts: ImageFacts) -> None:
        self._openvino = openvino
        self._core = core
        self._artifact = artifact
        self._device = device
        self._facts = facts

    def encode_tile(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """See TileEncoder."""
        with translated("expected to encode an image"):
            patches = self._encoder.run({"pixel_values": pixels[None]}, at_once=False)[0]
            return self._projected(_merged(patches, self._facts.side))

    def separators(self) -> NDArray[np.float32]:
        """See TileEncoder."""
        import numpy as np

        file = self._artifact / CONFIG_FILE
        with translated(f"{file}: expected what stands between the parts of an image"):
            config = json.loads(file.read_bytes())
            both = [config.get(key) for key in (LINE_END_KEY, SEPARATOR_KEY)]
            return self._projected(np.array([np.array(each, np.float32).ravel() for each in both]))

    def _projected(self, merged: NDArray[np.float32]) -> NDArray[np.float32]:
        """What stands for each row [numbers of two by two patches] in the decoder, [rows, hidden]."""
        import numpy as np

        rows: NDArray[np.float32] = np.array(self._projection.run({"input": merged[None]}, at_once=False)[0])
        return rows

    @cached_property
    def _encoder(self) -> GraphRequest:
        return self._compiled(IMAGE_ENCODER_GRAPH_FILE, tiles=1)

    @cached_property
    def _projection(self) -> GraphRequest:
        return self._compiled(IMAGE_PROJECTION_GRAPH_FILE)

    def _compiled(self, graph_file: str, *, tiles: int | None = None) -> GraphRequest:
        file = self._artifact / graph_file
        with translated(f"{file}: expected a part of a model that sees"):
            model = self._core.read_model(file)
            if tiles is not None:  # of known size, its buffers are laid out once and share their memory
                model.reshape([tiles, *model.input().get_partial_shape()[1:]])
            return GraphRequest(self._openvino, self._core.compile_model(model, self._device))


def _merged(patches: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Two by two patches of a tile put together: [patches, size] -> [side * side, 4 * size]."""
    size = patches.shape[-1]
    squares = patches.reshape(side, 2, side, 2, size).transpose(0, 2, 1, 3, 4)
    return squares.reshape(side * side, 4 * size)
