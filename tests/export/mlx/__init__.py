"""What this exporter promises; mypy holds it against its Protocol."""

from edgephi.export.exporter import Exporter, ImageEncoderExporter
from edgephi.export.mlx import exporter, image_encoder

EXPORTER: Exporter = exporter
IMAGE_ENCODER_EXPORTER: ImageEncoderExporter = image_encoder
