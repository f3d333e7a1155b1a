"""edgephi: build, prove and run Phi-3-family models on edge devices."""

from edgephi.guards.no_telemetry import switch_off

__version__ = "0.1.0"

switch_off()  # here, because every other module and every process of ours comes after this one
