"""Which blocks of keys each block of queries sees in block-sparse attention, as `SparseAttention` wants them.

A layout is a matrix of blocks in compressed sparse rows; the heads have the layouts by turns.
"""

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Architecture, Attention, BlockSparsity

BLOCK_ROWS = "block_row_indices"
BLOCK_COLUMNS = "block_column_indices"
_NO_BLOCK = -1


def sparsity_at(attention: Attention, layer: int, context: int) -> BlockSparsity | None:
    """How sparse the attention of a layer is, None where a context of so many tokens sees all of itself."""
    sparsity = attention.sparsity_of(layer)
    return None if sparsity is None or context <= sparsity.dense_tokens else sparsity


def sparse_layers(architecture: Architecture, context: int) -> list[int]:
    """The layers that leave anything out in a context of so many tokens."""
    layers = range(architecture.layers)
    return [layer for layer in layers if sparsity_at(architecture.attention, layer, context) is not None]


def block_tables(architecture: Architecture, context: int) -> dict[str, NDArray[Any]]:
    """The two tables for all layers that are sparse; none where there are none."""
    attention = architecture.attention
    if attention.sparsity is None or not sparse_layers(architecture, context):
        return {}
    rows, columns = _compressed(attention.sparsity, attention.heads, context)
    return {BLOCK_ROWS: rows, BLOCK_COLUMNS: columns}


@functools.lru_cache(maxsize=4)
def _compressed(
    sparsity: BlockSparsity, heads: int, context: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """[layouts, blocks + 1] where the blocks of each row begin, and [layouts, most blocks] their columns."""
    blocks = -(-context // sparsity.block_size)
    starts, columns = [], []
    for head in range(_layouts(sparsity, heads)):
        seen = _seen(sparsity, blocks, head)
        starts.append(np.concatenate([[0], np.cumsum(seen.sum(axis=1))]))
        columns.append(np.nonzero(seen)[1])
    most = max(map(len, columns))
    padded = [np.pad(each, (0, most - len(each)), constant_values=_NO_BLOCK) for each in columns]
    return np.stack(starts).astype(np.int32), np.stack(padded).astype(np.int32)


def _layouts(sparsity: BlockSparsity, heads: int) -> int:
    """After how many heads the layouts begin again; `SparseAttention` wants it to divide the heads."""
    period = sparsity.stride // math.gcd(sparsity.head_shift, sparsity.stride)
    return period if heads % period == 0 else heads


def _seen(sparsity: BlockSparsity, blocks: int, head: int) -> NDArray[np.bool_]:
    """Whether each block of queries sees each block of keys, [blocks, blocks]."""
    numbers = np.arange(blocks)
    queries, keys = numbers[:, None], numbers[None, :]
    seen: NDArray[np.bool_] = sparsity.sees(queries, keys, head) & (keys <= queries)
    return seen
