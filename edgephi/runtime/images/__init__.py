"""Images on the device: from a file to the tokens that a model reads."""

from edgephi.runtime.images.preparation import PreparedImage, prepare
from edgephi.runtime.images.seen_image import ImageSource, SeenImage

__all__ = ["ImageSource", "PreparedImage", "SeenImage", "prepare"]
