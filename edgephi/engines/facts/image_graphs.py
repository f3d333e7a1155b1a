"""The graphs of an image encoder in an artifact, run by onnxruntime for engines that cannot see."""

from typing import Final

TILE_GRAPH_FILE: Final = "tile.onnx"
"""Of some tiles; edgephi's runtime reads this one."""
IMAGE_GRAPH_FILE: Final = "vision.onnx"
"""Of whole images, for onnxruntime-genai's own pipeline."""
IMAGE_DATA_FILE = "vision.onnx.data"
"""The weights of both."""
PIXELS_INPUT, ROWS_OUTPUT = "pixel_values", "rows"
SEPARATOR_ROWS = 2
"""The first rows of the output: the end of a line and the separator."""
