"""The dequantised weights of an ONNX artifact, read with ONNX's own library and nothing of ours.

Names are those of the checkpoint.
"""

from tests.export.oracle import tensors_of as weights_of

__all__ = ["weights_of"]
