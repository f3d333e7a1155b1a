"""edgephi: build, prove and run Phi-3-family models on edge devices."""

__version__ = "0.1.0"
