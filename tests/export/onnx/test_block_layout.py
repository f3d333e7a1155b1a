"""The two tables of `SparseAttention` against the rule, block by block; and when a layer needs them."""

import dataclasses
import itertools

import numpy as np
import pytest

from edgephi.checkpoint.architecture import Architecture, Attention, BlockSparsity, ClippedGeglu, LayerNorm
from edgephi.checkpoint.rotary import RotaryEmbedding
from edgephi.export.onnx.block_layout import BLOCK_COLUMNS, BLOCK_ROWS, block_tables, sparse_layers

SPARSITY = BlockSparsity(block_size=64, local_blocks=16, stride=8, head_shift=1, dense_every=2)
DENSE_UP_TO = 1024


def model(sparsity: BlockSparsity | None = SPARSITY, *, heads: int = 8) -> Architecture:
    rotary = RotaryEmbedding(size=64, theta=1e6, original_context=8192, context=8192)
    return Architecture(
        model_type="phi3small",
        vocabulary_size=512,
        hidden_size=512,
        layers=4,
        norm=LayerNorm(1e-5),
        attention=Attention(heads, 2, 64, None, rotary, biases=True, scale=1 / 64, sparsity=sparsity),
        feed_forward=ClippedGeglu(width=320, limit=20.0),
        context=8192,
        tied_embeddings=True,
        bos_token_id=1,
        eos_token_ids=(2,),
        pad_token_id=None,
    )


@pytest.mark.parametrize("context", [1025, 2100, 8192])
@pytest.mark.parametrize(("shift", "layouts"), [(1, 8), (0, 1), (2, 4), (3, 8)])
def test_each_block_sees_what_the_published_rule_says(context: int, shift: int, layouts: int) -> None:
    tables = block_tables(model(dataclasses.replace(SPARSITY, head_shift=shift)), context)
    rows, columns = tables[BLOCK_ROWS], tables[BLOCK_COLUMNS]
    blocks = -(-context // 64)
    assert rows.shape == (layouts, blocks + 1)
    assert rows.dtype == columns.dtype == np.int32
    for head, query in itertools.product(range(8), range(blocks)):
        layout = head % layouts
        seen = columns[layout, rows[layout, query] : rows[layout, query + 1]].tolist()
        expected = [key for key in range(query + 1) if query - key < 16 or (key + head * shift + 1) % 8 == 0]
        assert seen == expected
    for row, column in zip(rows, columns, strict=True):
        assert (column[row[-1] :] == -1).all()
        assert (column[: row[-1]] >= 0).all()


def test_heads_that_the_layouts_do_not_divide_have_one_each() -> None:
    tables = block_tables(model(heads=6), 2048)
    assert len(tables[BLOCK_ROWS]) == 6


def test_up_to_where_all_is_dense_nothing_is_sparse() -> None:
    assert sparse_layers(model(), DENSE_UP_TO) == []
    assert block_tables(model(), DENSE_UP_TO) == {}
    assert sparse_layers(model(), DENSE_UP_TO + 1) == [0, 2]
    assert sparse_layers(model(None), 8192) == []
