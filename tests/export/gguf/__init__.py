"""What this exporter promises; mypy holds it against its Protocol."""

from edgephi.export.exporter import Exporter
from edgephi.export.gguf import exporter

EXPORTER: Exporter = exporter
