"""What this exporter promises; mypy holds it against its Protocol."""

from edgephi.export.exporter import Exporter
from edgephi.export.onnx import exporter

EXPORTER: Exporter = exporter
