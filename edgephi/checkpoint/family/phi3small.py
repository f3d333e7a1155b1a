"""`Phi3SmallForCausalLM`: Phi-3-small, with block-sparse attention, a clipped GEGLU and muP multipliers.

transformers has no class for it: the sources are the published `configuration_phi3_small.py` and
`modeling_phi3_small.py`. All its linear layers have biases, whatever `attention_bias` says.
"""

import dataclasses
from collections.abc import Iterator

from edgephi.checkpoint.architecture import (
    Architecture,
    Attention,
    BlockSparsity,
    ClippedGeglu,
    LayerNorm,
)
from edgephi.checkpoint.config_keys import LARGEST_DEPTH, ConfigKeys
from edgephi.checkpoint.family import phi3
from edgephi.checkpoint.rank_file.phi_3_small import unused_token_ids
from edgephi.checkpoint.roles import BIASES, ModelTensor, Role
from edgephi.checkpoint.weights.source import Source

PARTS: frozenset[type] = frozenset({LayerNorm, ClippedGeglu})

_MODULES = {
    Role.EMBEDDING: "model.embed_tokens",
    Role.ATTENTION_NORM: "model.layers.{layer}.input_layernorm",
    Role.QUERY_KEY_VALUE: "model.layers.{layer}.self_attn.query_key_value",
    Role.ATTENTION_OUTPUT: "model.layers.{layer}.self_attn.dense",
    Role.FEED_FORWARD_NORM: "model.layers.{layer}.post_attention_layernorm",
    Role.GATE_UP: "model.layers.{layer}.mlp.up_proj",
    Role.DOWN: "model.layers.{layer}.mlp.down_proj",
    Role.FINAL_NORM: "model.final_layernorm",
    Role.HEAD: "lm_head",
}
_NAMES = {role: f"{module}.weight" for role, module in _MODULES.items()} | {
    bias: f"{_MODULES[role]}.bias" for role, bias in BIASES.items() if role in _MODULES
}


def read(config: ConfigKeys, generation: ConfigKeys) -> Architecture:
    """The architecture that the two files describe; see `phi3.read`."""
    if config.data.get("hidden_act", "gegelu") != "gegelu":
        config.refuse("hidden_act", "gegelu")
    if config.data.get("gegelu_limit") is None:
        config.refuse("gegelu_limit", 20.0)
    vocabulary_size = config.whole("vocab_size")
    hidden_size = config.whole("hidden_size")
    context = config.context()
    tokens = phi3.read_tokens(config, generation, vocabulary_size)
    # The published config does not list them; its class asks the tokenizer.
    unused = config.token_ids("dummy_token_indices", vocabulary_size) or unused_token_ids(vocabulary_size)
    if never := sorted(set(tokens.eos).intersection(unused)):
        config.fail("eos_token_id", "no tokens that are never said", never)
    return Architecture(
        model_type="phi3small",
        vocabulary_size=vocabulary_size,
        hidden_size=hidden_size,
        layers=config.whole("num_hidden_layers", largest=LARGEST_DEPTH),
        norm=LayerNorm(config.number("layer_norm_epsilon", default=1e-5)),
        attention=_read_attention(config, hidden_size, context),
        feed_forward=ClippedGeglu(config.whole("ff_intermediate_size"), limit=config.number("gegelu_limit")),
        context=context,
        tied_embeddings=config.data.get("tie_word_embeddings") is None or config.flag("tie_word_embeddings"),
        bos_token_id=tokens.bos,
        eos_token_ids=tokens.eos,
        pad_token_id=tokens.pad,
        embedding_multiplier=_multiplier(config, "mup_embedding_multiplier"),
        logits_multiplier=1 / _multiplier(config, "mup_width_multiplier"),
        unused_token_ids=tuple(dict.fromkeys(unused)),
    )


def _multiplier(config: ConfigKeys, key: str) -> float:
    """A muP multiplier, which null and numbers that are not above 0 turn off."""
    value = config.data.get(key)
    if value is None or (type(value) in (int, float) and value <= 0):
        return 1.0
    return config.number(key)


def _read_attention(config: ConfigKeys, hidden_size: int, context: int) -> Attention:
    if config.number("rope_position_scale", default=1.0) != 1.0:
        config.refuse("rope_position_scale", 1.0)
    # It has names of its own for what the others have too, and no window, whatever a config says.
    named = {"rope_theta": config.number("rope_embedding_base", default=10000.0), "sliding_window": None}
    own = dataclasses.replace(config, data={**config.data, **named})
    plain = phi3.read_attention(own, hidden_size, context, biases=True)
    every = config.whole("dense_attention_every_n_layers", default=1, largest=LARGEST_DEPTH)
    scale = None
    if config.flag("mup_use_scaling"):
        scale = config.number("mup_attn_multiplier", default=1.0) / plain.head_size
    sparsity = None if every == 1 else _read_sparsity(config, plain.heads, every)
    return dataclasses.replace(plain, scale=scale, sparsity=sparsity)


def _read_sparsity(config: ConfigKeys, heads: int, dense_every: int) -> BlockSparsity:
    stride = config.whole("blocksparse_vert_stride")
    same_for_all = config.flag("blocksparse_homo_head_pattern")
    return BlockSparsity(
        block_size=config.whole("blocksparse_block_size"),
        local_blocks=config.whole("blocksparse_num_local_blocks"),
        stride=stride,
        head_shift=0 if same_for_all else max(1, stride // heads),
        dense_every=dense_every,
    )


def sources(architecture: Architecture) -> dict[ModelTensor, tuple[Source, ...]]:
    """Where a checkpoint holds each tensor: under one name, with rows of some in another order.

    Query, key and value go by key heads: the query heads that share it, the key head, its value head. Gate
    and up take turns, row by row.
    """
    return {
        tensor: tuple(_parts(architecture, tensor, shape[0]))
        for tensor, shape in architecture.tensor_shapes().items()
    }


def _parts(architecture: Architecture, tensor: ModelTensor, rows: int) -> Iterator[Source]:
    name = _NAMES[tensor.role].format(layer=tensor.layer)
    match tensor.role:
        case Role.QUERY_KEY_VALUE | Role.QUERY_KEY_VALUE_BIAS:
            for own, into in _rows_by_key_head(architecture.attention):
                yield Source(name, own, into)
        case Role.GATE_UP | Role.GATE_UP_BIAS:
            half = rows // 2
            yield Source(name, range(0, rows, 2), range(half))
            yield Source(name, range(1, rows, 2), range(half, rows))
        case _:
            yield Source(name, range(rows), range(rows))


def _rows_by_key_head(attention: Attention) -> Iterator[tuple[range, range]]:
    """Rows of the stored projection, and which of ours they are: queries, then keys, then values."""
    size, kv_heads = attention.head_size, attention.kv_heads
    group = attention.heads // kv_heads * size  # rows of the queries that share a key head
    keys = attention.heads * size
    values = keys + kv_heads * size
    for head in range(kv_heads):
        start = head * (group + 2 * size)
        for first, into, count in (
            (start, head * group, group),
            (start + group, keys + head * size, size),
            (start + group + size, values + head * size, size),
        ):
            yield range(first, first + count), range(into, into + count)


def other_modules(architecture: Architecture) -> dict[str, tuple[ModelTensor, range]]:  # noqa: ARG001 - Family
    """None: its modules have the same names in all code."""
    return {}


def is_known(name: str, architecture: Architecture) -> bool:
    """Whether a tensor that is no source says nothing new: RoPE tables, the second name of a tied head."""
    return phi3.is_known(name, architecture)
