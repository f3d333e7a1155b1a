"""4-bit codes, two to a byte: the even one in the low half, as ONNX, OpenVINO and MLX lay them out."""

import numpy as np
from numpy.typing import NDArray


def pack_nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 codes below 16 [..., 2n] -> bytes [..., n]. The last dimension must be contiguous and even."""
    pairs = np.ascontiguousarray(codes).view("<u2")  # low byte: even code, high byte: odd code
    packed: NDArray[np.uint8] = (pairs | (pairs >> 4)).astype(np.uint8)
    return packed


def unpack_nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bytes [..., n] -> uint8 codes [..., 2n]; the inverse of `pack_nibbles`."""
    codes = np.empty((*packed.shape[:-1], packed.shape[-1] * 2), dtype=np.uint8)
    np.bitwise_and(packed, 15, out=codes[..., ::2])
    np.right_shift(packed, 4, out=codes[..., 1::2])
    return codes
