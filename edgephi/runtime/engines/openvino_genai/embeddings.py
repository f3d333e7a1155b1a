"""What a decoder that sees is given: the embeddings of words, and what an encoder made of parts of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgephi.runtime.engines.openvino_genai.request import GraphRequest
from edgephi.runtime.images.rows import ImageRows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Embeddings:
    """The graph of the embeddings, and the table of the images, whose tokens are ids below 0."""

    def __init__(self, openvino: Any, core: Any, file: Path, device: str, image_rows: ImageRows) -> None:
        self._request = GraphRequest(openvino, core.compile_model(core.read_model(file), device))
        self._image_rows = image_rows

    def __call__(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """float32 [tokens, hidden]."""
        import numpy as np

        ids = np.array(tokens, np.int64)
        seen = ids < 0
        found = self._request.run({"input": np.maximum(ids, 0)[None]}, at_once=True)[0]
        rows: NDArray[np.float32] = np.array(found, np.float32)
        if seen.any():
            rows[seen] = self._image_rows.take(ids[seen].tolist())
        return rows
