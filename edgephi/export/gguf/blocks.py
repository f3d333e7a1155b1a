"""The blocks of GGUF: which scheme is which of ggml's types, and its bytes there and back.

All numbers are little-endian, all scales and steps float16. A block of 32 weights is

    Q4_0  scale, 16 bytes of codes
    Q4_1  scale, offset, 16 bytes of codes
    Q5_0  scale, 4 bytes of fifth bits, 16 bytes of codes
    Q5_1  scale, offset, 4 bytes of fifth bits, 16 bytes of codes
    Q8_0  scale, 32 bytes of codes less 128

where byte i of the codes holds weight i in its low bits and weight i + 16 in its high ones. A block of 256 is

    Q4_K  two steps, 12 bytes of scales and minimums, 128 bytes of codes
    Q5_K  two steps, 12 bytes of scales and minimums, 32 bytes of fifth bits, 128 bytes of codes
    Q6_K  128 bytes of low bits, 64 bytes of high bits, 16 bytes of scales, one step

where 32 bytes of codes hold two groups of 32, the first in their low bits, and bit i of a byte of fifth bits
is that of group i.

Source: `ggml-common.h` and `ggml-quants.c` of ggml.
"""

from collections.abc import Mapping

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as TensorType
from numpy.typing import NDArray

from edgephi.quantize.groups import Groups, dequantize, dequantize_super_blocks
from edgephi.quantize.scheme import SUPER_BLOCK, Scheme

Bytes = NDArray[np.uint8]

TYPES: Mapping[Scheme, TensorType] = {
    Scheme(4, 32): TensorType.Q4_0,
    Scheme(5, 32): TensorType.Q5_0,
    Scheme(8, 32): TensorType.Q8_0,
    Scheme(4, 32, symmetric=False, scales="offset"): TensorType.Q4_1,
    Scheme(5, 32, symmetric=False, scales="offset"): TensorType.Q5_1,
    Scheme(4, 32, symmetric=False, scales="superblocks"): TensorType.Q4_K,
    Scheme(5, 32, symmetric=False, scales="superblocks"): TensorType.Q5_K,
    Scheme(6, 16, symmetric=True, scales="superblocks"): TensorType.Q6_K,
}
SCHEMES: Mapping[TensorType, Scheme] = {kind: scheme for scheme, kind in TYPES.items()}

_BLOCK = 32
_GROUPS = SUPER_BLOCK // _BLOCK  # of 32 weights in a super-block
_PACKED_SCALES = 12
_BITS = np.arange(8, dtype=np.uint8)


def block_bytes(scheme: Scheme) -> tuple[int, int]:
    """How many weights a block of a scheme has, and how many bytes."""
    weights, size = GGML_QUANT_SIZES[TYPES[scheme]]
    return weights, size


def pack(groups: Groups, scheme: Scheme) -> tuple[NDArray[np.generic], ...]:
    """A block of rows as blocks of the scheme's type, uint8 [blocks, bytes]."""
    parts = _super_blocks(groups, scheme) if scheme.scales == "superblocks" else _plain_blocks(groups, scheme)
    return (np.concatenate(parts, axis=1),)


def unpack(blocks: Bytes, scheme: Scheme, columns: int) -> NDArray[np.float32]:
    """The weights, float32 [rows, columns], that blocks of a scheme's type are, uint8 [blocks, bytes]."""
    if scheme.scales == "superblocks":
        return _super_block_weights(blocks, scheme, columns)
    scales, rest = _floats(blocks, 1)
    offsets, rest = _floats(rest, 1) if scheme.scales == "offset" else (None, rest)
    if scheme.bits == 8:
        codes = rest ^ np.uint8(scheme.middle)  # int8 -> code
    else:
        codes = _halves(rest[:, -_BLOCK // 2 :])
        if scheme.bits == 5:
            codes |= np.unpackbits(rest[:, :4], axis=1, bitorder="little") << np.uint8(4)
    if offsets is None:
        return dequantize(codes, scales, scheme.middle).reshape(-1, columns)
    weights = dequantize(codes, scales, 0)
    weights += offsets.astype(np.float32)
    return weights.reshape(-1, columns)


def _plain_blocks(groups: Groups, scheme: Scheme) -> list[Bytes]:
    codes = groups.codes.reshape(-1, _BLOCK)
    parts = [_bytes(groups.scales.reshape(-1, 1))]
    if groups.offsets is not None:
        parts.append(_bytes(groups.offsets.reshape(-1, 1)))
    if scheme.bits == 8:
        return [*parts, codes ^ np.uint8(scheme.middle)]  # the bits of int8(code - 128)
    if scheme.bits == 5:
        parts.append(np.packbits(codes >> 4, axis=1, bitorder="little"))
    low = codes & np.uint8(15)
    return [*parts, low[:, : _BLOCK // 2] | (low[:, _BLOCK // 2 :] << np.uint8(4))]


def _super_blocks(groups: Groups, scheme: Scheme) -> list[Bytes]:
    steps = _bytes(groups.scales.reshape(-1, groups.scales.shape[-1]))
    blocks = len(steps)
    multiples = np.asarray(groups.multiples).view(np.uint8).reshape(blocks, -1)
    codes = groups.codes.reshape(blocks, _GROUPS, _BLOCK)
    if scheme.bits == 6:
        # Runs of 128 weights: two bytes of low bits for four weights, and one of high bits.
        runs = codes.reshape(blocks, 2, 4, _BLOCK)
        low = (runs[:, :, :2] & np.uint8(15)) | (runs[:, :, 2:] << np.uint8(4))
        high = np.bitwise_or.reduce((runs >> 4) << (2 * _BITS[:4, None]), axis=2)
        return [low.reshape(blocks, -1), high.reshape(blocks, -1), multiples, steps]
    parts = [steps, _pack_scales(multiples, np.asarray(groups.minimums).reshape(blocks, -1))]
    if scheme.bits == 5:
        parts.append(np.bitwise_or.reduce((codes >> 4) << _BITS[:, None], axis=1))
    low = codes & np.uint8(15)
    return [*parts, (low[:, ::2] | (low[:, 1::2] << np.uint8(4))).reshape(blocks, -1)]


def _super_block_weights(blocks: Bytes, scheme: Scheme, columns: int) -> NDArray[np.float32]:
    count, rows = len(blocks), len(blocks) * SUPER_BLOCK // columns
    multiples: NDArray[np.uint8] | NDArray[np.int8]
    if scheme.bits == 6:
        low, high, multiples = blocks[:, :128], blocks[:, 128:192], blocks[:, 192:208].view(np.int8)
        steps, minimums = _floats(blocks[:, 208:], 1)[0], None
        pairs = low.reshape(count, 2, 2, _BLOCK)
        codes = np.concatenate([pairs & np.uint8(15), pairs >> 4], axis=2)  # [blocks, 2, 4, 32]
        codes |= ((high.reshape(count, 2, 1, _BLOCK) >> (2 * _BITS[:4, None])) & np.uint8(3)) << np.uint8(4)
    else:
        steps, rest = _floats(blocks, 2)
        multiples, minimums = _unpack_scales(rest[:, :_PACKED_SCALES])
        pairs = rest[:, -128:].reshape(count, _GROUPS // 2, 1, _BLOCK)
        codes = np.concatenate([pairs & np.uint8(15), pairs >> 4], axis=2)
        if scheme.bits == 5:
            fifth = rest[:, _PACKED_SCALES : _PACKED_SCALES + _BLOCK]
            bits = (fifth[:, None] >> _BITS[:, None]) & np.uint8(1)  # [blocks, 8, 32]
            codes |= bits.reshape(codes.shape) << np.uint8(4)
    return dequantize_super_blocks(
        codes.reshape(rows, columns),
        steps.reshape(rows, columns // SUPER_BLOCK, -1),
        multiples.reshape(rows, -1),
        None if minimums is None else minimums.reshape(rows, -1),
        scheme.middle,
    )


def _pack_scales(scales: Bytes, minimums: Bytes) -> Bytes:
    """Eight scales and eight minimums of 6 bits in 12 bytes.

    The first four of each fill the low bits of a byte; the high bits of these bytes are those of the last
    four, whose low bits share the last four bytes.
    """
    upper = [(each[:, 4:] >> 4) << np.uint8(6) for each in (scales, minimums)]
    lower = (scales[:, 4:] & np.uint8(15)) | (minimums[:, 4:] << np.uint8(4))
    return np.concatenate([scales[:, :4] | upper[0], minimums[:, :4] | upper[1], lower], axis=1)


def _unpack_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """The inverse of `_pack_scales`."""
    first, second, lower = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    low, high = lower & np.uint8(15), lower >> 4
    scales = [first & np.uint8(63), low | ((first >> 6) << np.uint8(4))]
    minimums = [second & np.uint8(63), high | ((second >> 6) << np.uint8(4))]
    return np.concatenate(scales, axis=1), np.concatenate(minimums, axis=1)


def _halves(packed: Bytes) -> Bytes:
    """The codes of the low bits of all bytes of a block, then those of the high ones."""
    codes: Bytes = np.concatenate([packed & np.uint8(15), packed >> 4], axis=1)
    return codes


def _bytes(numbers: NDArray[np.generic]) -> Bytes:
    """The bytes of each row of float16 numbers [blocks, n]."""
    return np.ascontiguousarray(numbers.astype(np.float16, copy=False)).view(np.uint8)


def _floats(blocks: Bytes, count: int) -> tuple[NDArray[np.float16], Bytes]:
    """The first `count` float16 numbers of each block, and the bytes after them."""
    size = 2 * count
    return np.ascontiguousarray(blocks[:, :size]).view(np.float16), blocks[:, size:]
