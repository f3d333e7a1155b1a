"""An image encoder in ONNX, run by onnxruntime: for onnxruntime-genai, and for engines that cannot see.

Source of the options: onnxruntime's `onnxruntime_session_options_config_keys.h`.
"""

from __future__ import annotations

import contextlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgephi.engines.facts.image_graphs import PIXELS_INPUT, ROWS_OUTPUT, SEPARATOR_ROWS, TILE_GRAPH_FILE
from edgephi.runtime.engines.errors import cannot_import, translated

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxTileEncoder:
    """The graph of tiles in an artifact; it is loaded when it is first used, and stays.

    `package` and `extra` are what brings onnxruntime, should it be missing.
    """

    def __init__(self, artifact: Path, provider: str, *, package: str, extra: str) -> None:
        self._graph = artifact / TILE_GRAPH_FILE
        self._provider = _PROVIDERS[provider]
        self._package, self._extra = package, extra
        self._separators: NDArray[np.float32] | None = None

    def encode_tile(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """See TileEncoder."""
        rows = self._rows(pixels)
        self._separators = rows[:SEPARATOR_ROWS].copy()  # the same beside every tile
        return rows[SEPARATOR_ROWS:]

    def separators(self) -> NDArray[np.float32]:
        """See TileEncoder. It costs nothing after a tile, and a tile before."""
        import numpy as np

        if self._separators is None:
            nothing = np.zeros(self._session.get_inputs()[0].shape[1:], np.float32)
            self._separators = self._rows(nothing)[:SEPARATOR_ROWS]
        return self._separators

    def _rows(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """The separators, and then what one tile is."""
        with _translated(f"{self._graph}: expected to encode a tile of {pixels.shape[-1]} pixels"):
            rows: NDArray[np.float32]
            [rows] = self._session.run([ROWS_OUTPUT], {PIXELS_INPUT: pixels[None]})
        return rows

    @cached_property
    def _session(self) -> Any:
        try:
            import onnxruntime
        except ImportError as cause:
            raise cannot_import(self._package, cause, extra=self._extra) from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # failures come back as exceptions
        # The graph is as it should run. An optimiser would make float32 of float16 weights once and for all.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Between two tiles and after the last one others need the processors.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A plan of the memory would hold all of it in one piece beside that of the first tile.
        options.enable_mem_pattern = False
        version = onnxruntime.__version__
        with _translated(f"{self._graph}: expected a graph that onnxruntime {version} can read"):
            return onnxruntime.InferenceSession(str(self._graph), options, providers=[self._provider])


def _translated(doing: str) -> contextlib.AbstractContextManager[None]:
    # onnxruntime has a class for each of its errors, all of them plain exceptions.
    return translated(doing, kinds=(Exception,))
