"""Which of llama.cpp's K-quants each matrix gets: a mixture in which what costs most has more bits.

With 4 bits it is that of llama.cpp's own "Q4_K_M" for this architecture, so that sizes can be compared: 5
bits for the projections of attention's inputs, 6 for half of the last projections of the feed-forward part,
those of the first and the last layers among them, and 4 for the rest. An embedding or a head that a recipe
gives 8 bits has 6, which cost next to nothing; other matrices of 8 bits stay symmetric groups of 32.

A super-block is 256 weights. Rows that are no multiple of it, as some small models have them, get groups of
32 with a bit or two more, which llama.cpp gives them too.

Source of the mixture: `llama_tensor_get_type_impl` in llama.cpp's `src/llama-quant.cpp`.
"""

from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.quantize.scheme import SUPER_BLOCK, Scheme

_VOCABULARY = (Role.EMBEDDING, Role.HEAD)
_EIGHT = Scheme(8, 32)
_SIX = Scheme(6, 16, symmetric=True, scales="superblocks")
_FIVE = Scheme(5, 32, symmetric=False, scales="superblocks")
_FOUR = Scheme(4, 32, symmetric=False, scales="superblocks")
# What stands in where rows cannot be cut into super-blocks.
_IN_SHORT_ROWS = {
    _SIX: _EIGHT,
    _FIVE: Scheme(5, 32, symmetric=False, scales="offset"),
    _FOUR: Scheme(5, 32),
}


def k_quant(tensor: ModelTensor, columns: int, layers: int, bits: int) -> Scheme:
    """The scheme of a matrix of so many columns, in a model of so many layers, for 4 or 8 bits."""
    scheme = _mixture(tensor, layers, bits)
    return scheme if columns % SUPER_BLOCK == 0 else _IN_SHORT_ROWS.get(scheme, scheme)


def _mixture(tensor: ModelTensor, layers: int, bits: int) -> Scheme:
    if bits == 8:
        return _SIX if tensor.role in _VOCABULARY else _EIGHT
    if tensor.role is Role.QUERY_KEY_VALUE:
        return _FIVE
    if tensor.role is Role.DOWN and tensor.layer is not None and _has_more_bits(tensor.layer, layers):
        return _SIX
    return _FOUR


def _has_more_bits(layer: int, layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
