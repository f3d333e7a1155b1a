"""`PhimoeForCausalLM`: Phi-3.5-MoE, whose feed-forwards are experts behind a router.

The published config names `PhiMoEForCausalLM`, what transformers saves `PhimoeForCausalLM`; the tensors have
the same names in both.
"""

from collections.abc import Iterator

from edgephi.checkpoint.architecture import Architecture, LayerNorm, MixtureOfExperts
from edgephi.checkpoint.config_keys import LARGEST_DEPTH, ConfigKeys
from edgephi.checkpoint.family import phi3
from edgephi.checkpoint.roles import BIASES, ModelTensor, Role
from edgephi.checkpoint.weights.source import Source

_EXPERTS_OF_A_TOKEN = 2  # SparseMixer chooses twice
_MOST_EXPERTS = 256

PARTS: frozenset[type] = frozenset({LayerNorm, MixtureOfExperts})

_MODULES = {
    Role.EMBEDDING: "model.embed_tokens",
    Role.ATTENTION_NORM: "model.layers.{layer}.input_layernorm",
    Role.ATTENTION_OUTPUT: "model.layers.{layer}.self_attn.o_proj",
    Role.FEED_FORWARD_NORM: "model.layers.{layer}.post_attention_layernorm",
    Role.ROUTER: "model.layers.{layer}.block_sparse_moe.gate",
    Role.FINAL_NORM: "model.norm",
    Role.HEAD: "lm_head",
}
_NAMES = {role: f"{module}.weight" for role, module in _MODULES.items()} | {
    bias: f"{_MODULES[role]}.bias" for role, bias in BIASES.items() if role in _MODULES
}


def read(config: ConfigKeys, generation: ConfigKeys) -> Architecture:
    """The architecture that the two files describe; see `phi3.read`."""
    if not config.flag("attention_bias"):
        config.refuse("attention_bias", True)
    if config.data.get("hidden_act", "silu") != "silu":
        config.refuse("hidden_act", "silu")
    if config.whole("num_experts_per_tok", default=_EXPERTS_OF_A_TOKEN) != _EXPERTS_OF_A_TOKEN:
        config.refuse("num_experts_per_tok", _EXPERTS_OF_A_TOKEN)
    experts = config.whole("num_local_experts", default=16, largest=_MOST_EXPERTS)
    if experts < _EXPERTS_OF_A_TOKEN:
        config.fail("num_local_experts", f"at least {_EXPERTS_OF_A_TOKEN}", experts)
    vocabulary_size = config.whole("vocab_size")
    hidden_size = config.whole("hidden_size")
    context = config.context()
    tokens = phi3.read_tokens(config, generation, vocabulary_size)
    return Architecture(
        model_type="phimoe",
        vocabulary_size=vocabulary_size,
        hidden_size=hidden_size,
        layers=config.whole("num_hidden_layers", largest=LARGEST_DEPTH),
        norm=LayerNorm(config.number("rms_norm_eps", default=1e-5)),
        attention=phi3.read_attention(config, hidden_size, context, biases=True),
        feed_forward=MixtureOfExperts(
            width=config.whole("intermediate_size"),
            experts=experts,
            chosen=_EXPERTS_OF_A_TOKEN,
            jitter=config.number("router_jitter_noise", default=0.01),
        ),
        context=context,
        tied_embeddings=config.flag("tie_word_embeddings"),
        bos_token_id=tokens.bos,
        eos_token_ids=tokens.eos,
        pad_token_id=tokens.pad,
        head_bias=config.flag("lm_head_bias"),
    )


def sources(architecture: Architecture) -> dict[ModelTensor, tuple[Source, ...]]:
    """Where a checkpoint holds each tensor: query, key and value apart, and each expert by itself."""
    return {
        tensor: tuple(_parts(architecture, tensor, shape))
        for tensor, shape in architecture.tensor_shapes().items()
    }


def _parts(architecture: Architecture, tensor: ModelTensor, shape: tuple[int, ...]) -> Iterator[Source]:
    layer = f"model.layers.{tensor.layer}."
    match tensor.role:
        case Role.QUERY_KEY_VALUE | Role.QUERY_KEY_VALUE_BIAS:
            suffix = "weight" if tensor.role is Role.QUERY_KEY_VALUE else "bias"
            for module, into in phi3.attention_projections(architecture).items():
                yield Source(f"{layer}{module}.{suffix}", range(len(into)), into)
        case Role.EXPERTS_GATE_UP | Role.EXPERTS_DOWN:
            names = ("w1", "w3") if tensor.role is Role.EXPERTS_GATE_UP else ("w2",)
            experts, rows = shape[0], shape[1] // len(names)
            for number in range(experts * len(names)):
                expert, part = divmod(number, len(names))
                name = f"{layer}block_sparse_moe.experts.{expert}.{names[part]}.weight"
                yield Source(name, range(rows), range(number * rows, (number + 1) * rows))
        case _:
            name = _NAMES[tensor.role].format(layer=tensor.layer)
            yield Source(name, range(shape[0]), range(shape[0]))


def other_modules(architecture: Architecture) -> dict[str, tuple[ModelTensor, range]]:
    """Transformers' own name for the router, under which adapters are trained."""
    feed_forward = architecture.feed_forward
    if not isinstance(feed_forward, MixtureOfExperts):
        return {}
    return {
        f"model.layers.{layer}.mlp.router": (ModelTensor(Role.ROUTER, layer), range(feed_forward.experts))
        for layer in range(architecture.layers)
    }


def is_known(name: str, architecture: Architecture) -> bool:
    """Whether a tensor that is no source says nothing new: RoPE tables, the second name of a tied head."""
    return phi3.is_known(name, architecture)
