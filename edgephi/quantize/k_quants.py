"""Which of llama.cpp's K-quants each matrix gets: a mixture in which what costs most has more bits, or not.

With 4 bits, attention's inputs and the last projection of the feed-forward part are `Q5_K` and the rest is
`Q4_K`. It is as large as llama.cpp's own "Q4_K_M", in which half of the last projections are `Q6_K` and half
`Q4_K`, and loses a twentieth less on a trained model: `Q6_K` has no minimums, which inputs with large
outliers need. An embedding or a head that a recipe gives 8 bits is `Q6_K`, which costs next to nothing; other
matrices of 8 bits stay symmetric groups of 32. The small mixture has `Q4_K` for all that has 4 bits.

A bit more is worth most where there are fewest: on a trained model `Q5_K` in place of `Q4_K` saves three
quarters of a matrix's error, `Q6_K` another fifth. So what is kept at more bits gets the next better one.

A super-block is 256 weights. Rows that are no multiple of it, as some small models have them, get groups of
32 with a bit or two more, which llama.cpp gives them too.

Sources: `llama_tensor_get_type_impl` and `tensor_type_fallback` in llama.cpp's `src/llama-quant.cpp`.
"""

from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.declared.recipe import Mixture
from edgephi.quantize.scheme import SUPER_BLOCK, Scheme

_VOCABULARY = (Role.EMBEDDING, Role.HEAD)
_SENSITIVE = (Role.QUERY_KEY_VALUE, Role.DOWN)
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


# What a matrix gets that is kept at more bits than others of its kind.
_BETTER = {_FOUR: _FIVE, _FIVE: _SIX, _SIX: _EIGHT}


def k_quant(
    tensor: ModelTensor, columns: int, bits: int, mixture: Mixture = "medium", *, kept: bool = False
) -> Scheme:
    """The scheme of a matrix of so many columns that a recipe gives 4 or 8 bits.

    One that is `kept` gets the next better one.
    """
    scheme = _of_mixture(tensor, bits, mixture)
    if columns % SUPER_BLOCK:
        scheme = _IN_SHORT_ROWS.get(scheme, scheme)
        return _EIGHT if kept else scheme
    return _BETTER.get(scheme, scheme) if kept else scheme


def _of_mixture(tensor: ModelTensor, bits: int, mixture: Mixture) -> Scheme:
    if bits == 8:
        return _SIX if tensor.role in _VOCABULARY else _EIGHT
    return _FIVE if mixture == "medium" and tensor.role in _SENSITIVE else _FOUR
