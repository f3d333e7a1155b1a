"""What a config.json of a Phi-3-small means, where its tensors are, and what of it is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgephi.checkpoint.architecture import BlockSparsity, ClippedGeglu, LayerNorm
from edgephi.checkpoint.checkpoint import open_checkpoint, read_rows
from edgephi.checkpoint.config import read_architecture
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.errors import BadCheckpointError, NotSupportedError
from tests.tiny_phi3small import (
    TinySmall,
    tiny_phi3small_config,
    tiny_phi3small_weights,
    write_tiny_phi3small,
)

CONFIG = tiny_phi3small_config(TinySmall(), 500)

PUBLISHED = tiny_phi3small_config(
    TinySmall(hidden=4096, layers=32, heads=32, kv_heads=8, ffn=14336, vocab=100352), 100257
)
"""The published sizes; it names no unused tokens."""
del PUBLISHED["dummy_token_indices"]


def test_the_published_model() -> None:
    found = read_architecture(PUBLISHED, where="config.json")
    assert found.norm == LayerNorm(1e-5)
    assert found.feed_forward == ClippedGeglu(width=14336, limit=20.0)
    assert found.attention.sparsity == BlockSparsity(64, 16, 8, head_shift=1, dense_every=2)
    assert found.attention.score_scale == 1 / 128
    assert found.attention.rotary.theta == 1_000_000
    assert (found.embedding_multiplier, found.logits_multiplier) == (10.0, 1 / 8)
    assert found.tied_embeddings
    assert len(found.unused_token_ids) == 91
    assert found.parameters == 7_392_272_384


def test_the_layers_take_turns() -> None:
    attention = read_architecture(CONFIG, where="config.json").attention
    assert [attention.sparsity_of(layer) is None for layer in range(4)] == [False, True, False, True]


@given(query=st.integers(0, 200), key=st.integers(0, 200), head=st.integers(0, 31))
def test_a_query_sees_near_blocks_and_every_eighth_of_the_others(query: int, key: int, head: int) -> None:
    sparsity = BlockSparsity(64, 16, 8, head_shift=1, dense_every=2)
    if key <= query:
        chosen = (key + head + 1) % 8 == 0
        assert bool(sparsity.sees(query, key, head)) == (query - key < 16 or chosen)


def test_it_has_no_window_whatever_a_config_says() -> None:
    """The published class reads none, and no engine computes one beside the blocks."""
    assert read_architecture({**CONFIG, "sliding_window": 20}, where="config.json").attention.window is None


def test_rows_are_put_in_our_order(tmp_path: Path) -> None:
    tiny = TinySmall(layers=1, dtype="F32")
    checkpoint = open_checkpoint(write_tiny_phi3small(tmp_path / "tiny", tiny), id="tiny", revision="local")
    stored = tiny_phi3small_weights(tiny)
    size, group = tiny.hidden // tiny.heads, tiny.heads // tiny.kv_heads
    for suffix, role in (("weight", Role.QUERY_KEY_VALUE), ("bias", Role.QUERY_KEY_VALUE_BIAS)):
        fused = stored[f"model.layers.0.self_attn.query_key_value.{suffix}"]
        by_head = fused.reshape(tiny.kv_heads, group + 2, size, -1)  # of each key head: queries, key, value
        expected = np.concatenate(
            [
                by_head[:, :group].reshape(-1, by_head.shape[-1]),
                *(by_head[:, place].reshape(-1, by_head.shape[-1]) for place in (group, group + 1)),
            ]
        )
        found = read_rows(checkpoint, ModelTensor(role, 0), 0, len(fused))
        assert np.array_equal(found.reshape(len(fused), -1), expected)
    for suffix, role in (("weight", Role.GATE_UP), ("bias", Role.GATE_UP_BIAS)):
        both = stored[f"model.layers.0.mlp.up_proj.{suffix}"]
        found = read_rows(checkpoint, ModelTensor(role, 0), 0, len(both))
        assert np.array_equal(found, np.concatenate([both[0::2], both[1::2]]))


def test_long_factors_have_a_magnitude_of_their_own() -> None:
    config = tiny_phi3small_config(TinySmall(longrope=True, context=131072), 500)
    rotary = read_architecture(config, where="config.json").attention.rotary
    assert (rotary.magnitude_of(long=False), rotary.magnitude_of(long=True)) == (1.0, 1.19)
    assert rotary.uses_long_factors(8193)
    assert not rotary.uses_long_factors(8192)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "silu"}, "hidden_act: edgephi supports 'gegelu', found 'silu'"),
        ({"gegelu_limit": None}, "gegelu_limit: edgephi supports 20.0, found None"),
        ({"rope_position_scale": 2.0}, "rope_position_scale: edgephi supports 1.0, found 2.0"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: edgephi supports 1.0, found 0.5"),
    ],
)
def test_what_computes_something_else_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(NotSupportedError, match=message):
        read_architecture({**CONFIG, **change}, where="config.json")


@pytest.mark.parametrize(
    "change",
    [
        {"ff_intermediate_size": None},
        {"blocksparse_block_size": 0},
        {"blocksparse_vert_stride": None},
        {"blocksparse_num_local_blocks": -1},
        {"dense_attention_every_n_layers": 0},
        {"dummy_token_indices": [512]},
        {"eos_token_id": 511},
        {"mup_width_multiplier": "8"},
    ],
)
def test_what_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadCheckpointError, match=next(iter(change))):
        read_architecture({**CONFIG, **change}, where="config.json")


@pytest.mark.parametrize("off", [None, 0, -1])
def test_multipliers_can_be_off(off: object) -> None:
    changes = {"mup_embedding_multiplier": off, "mup_width_multiplier": off, "mup_use_scaling": False}
    found = read_architecture({**CONFIG, **changes}, where="config.json")
    assert (found.embedding_multiplier, found.logits_multiplier) == (1.0, 1.0)
    assert found.attention.score_scale == found.attention.head_size**-0.5
