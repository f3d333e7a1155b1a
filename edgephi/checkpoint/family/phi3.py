"""`Phi3ForCausalLM`: Phi-3-mini and -medium, Phi-3.5-mini, Phi-4 and Phi-4-mini.

Understands the keys of the published models and the `rope_parameters` that transformers 5 writes.
"""

from dataclasses import dataclass

from edgephi.checkpoint.architecture import Architecture, Attention, GatedSilu, RmsNorm
from edgephi.checkpoint.config_keys import LARGEST_CONTEXT, LARGEST_DEPTH, ConfigKeys
from edgephi.checkpoint.roles import ModelTensor, Role
from edgephi.checkpoint.rotary import read_rotary
from edgephi.checkpoint.weights.source import Source

PARTS: frozenset[type] = frozenset({RmsNorm, GatedSilu})

_NAMES = {
    Role.EMBEDDING: "model.embed_tokens.weight",
    Role.ATTENTION_NORM: "model.layers.{layer}.input_layernorm.weight",
    Role.QUERY_KEY_VALUE: "model.layers.{layer}.self_attn.qkv_proj.weight",
    Role.ATTENTION_OUTPUT: "model.layers.{layer}.self_attn.o_proj.weight",
    Role.FEED_FORWARD_NORM: "model.layers.{layer}.post_attention_layernorm.weight",
    Role.GATE_UP: "model.layers.{layer}.mlp.gate_up_proj.weight",
    Role.DOWN: "model.layers.{layer}.mlp.down_proj.weight",
    Role.FINAL_NORM: "model.norm.weight",
    Role.HEAD: "lm_head.weight",
}


def read(config: ConfigKeys, generation: ConfigKeys) -> Architecture:
    """The architecture that the two files describe.

    Tokens that end an answer are those of `generation`, then those of `config`. Raises NotSupportedError for
    an option that changes the computation, BadCheckpointError for a config that contradicts itself.
    """
    for option in ("attention_bias", "lm_head_bias", "mlp_bias"):
        if config.flag(option):
            config.refuse(option, False)
    if config.data.get("hidden_act", "silu") != "silu":
        config.refuse("hidden_act", "silu")
    vocabulary_size = config.whole("vocab_size")
    hidden_size = config.whole("hidden_size")
    context = config.context()
    tokens = read_tokens(config, generation, vocabulary_size)
    attention = read_attention(config, hidden_size, context)
    if attention.rotary.long_attention_factor is not None:
        fail = ConfigKeys(config.data.get("rope_scaling") or config.data["rope_parameters"], config.where)
        fail.refuse("long_mscale", attention.rotary.attention_factor)
    return Architecture(
        model_type="phi3",
        vocabulary_size=vocabulary_size,
        hidden_size=hidden_size,
        layers=config.whole("num_hidden_layers", largest=LARGEST_DEPTH),
        norm=RmsNorm(config.number("rms_norm_eps", default=1e-5)),
        attention=attention,
        feed_forward=GatedSilu(config.whole("intermediate_size")),
        context=context,
        tied_embeddings=config.flag("tie_word_embeddings"),
        bos_token_id=tokens.bos,
        eos_token_ids=tokens.eos,
        pad_token_id=tokens.pad,
    )


@dataclass(frozen=True)
class Tokens:
    """The ids that a config names: of the beginning, of all that end an answer, and of padding."""

    bos: int | None
    eos: tuple[int, ...]
    pad: int | None


def read_tokens(config: ConfigKeys, generation: ConfigKeys, vocabulary_size: int) -> Tokens:
    """The ids that the two files name, all inside the vocabulary."""
    eos = generation.token_ids("eos_token_id", vocabulary_size)
    eos += config.token_ids("eos_token_id", vocabulary_size)
    bos = config.token_ids("bos_token_id", vocabulary_size)
    pad = config.token_ids("pad_token_id", vocabulary_size, none=-1)
    return Tokens(bos[0] if bos else None, tuple(dict.fromkeys(eos)), pad[0] if pad else None)


def sources(architecture: Architecture) -> dict[ModelTensor, tuple[Source, ...]]:
    """Where a checkpoint holds each tensor: under one name, and as it is."""
    return {
        tensor: (Source(_NAMES[tensor.role].format(layer=tensor.layer), range(shape[0]), range(shape[0])),)
        for tensor, shape in architecture.tensor_shapes().items()
    }


def other_modules(architecture: Architecture) -> dict[str, tuple[ModelTensor, range]]:
    """Llama's modules, under which adapters for the same model are trained too."""
    return {
        f"model.layers.{layer}.{module}": (ModelTensor(role, layer), own)
        for layer in range(architecture.layers)
        for module, (role, own) in projections(architecture).items()
    }


def projections(architecture: Architecture) -> dict[str, tuple[Role, range]]:
    """The projections that are one matrix here, by the modules that they are in a Llama: which rows of it."""
    width = architecture.feed_forward.width
    return {
        **{name: (Role.QUERY_KEY_VALUE, rows) for name, rows in attention_projections(architecture).items()},
        "mlp.gate_proj": (Role.GATE_UP, range(width)),
        "mlp.up_proj": (Role.GATE_UP, range(width, 2 * width)),
    }


def attention_projections(architecture: Architecture) -> dict[str, range]:
    """Query, key and value where they are apart: which rows of the one matrix each is."""
    attention = architecture.attention
    queries, keys = attention.heads * attention.head_size, attention.kv_heads * attention.head_size
    return {
        "self_attn.q_proj": range(queries),
        "self_attn.k_proj": range(queries, queries + keys),
        "self_attn.v_proj": range(queries + keys, queries + 2 * keys),
    }


def is_known(name: str, architecture: Architecture) -> bool:
    """Whether a tensor that is no source says nothing new: RoPE tables, the second name of a tied head."""
    tied_head = architecture.tied_embeddings and name == _NAMES[Role.HEAD]
    return tied_head or name.endswith(".rotary_emb.inv_freq")


def read_attention(config: ConfigKeys, hidden_size: int, context: int, *, biases: bool = False) -> Attention:
    """The attention that a config describes with Phi-3's keys, dense and with the usual scale."""
    heads = config.whole("num_attention_heads")
    kv_heads = config.whole("num_key_value_heads", default=heads)
    if hidden_size % heads:
        config.fail("hidden_size", f"a multiple of num_attention_heads = {heads}", hidden_size)
    if heads % kv_heads:
        config.fail("num_key_value_heads", f"a divisor of num_attention_heads = {heads}", kv_heads)
    head_size = hidden_size // heads
    if config.data.get("head_dim") not in (None, head_size):
        config.refuse("head_dim", head_size)
    window = config.data.get("sliding_window")
    rotary = read_rotary(config, head_size=head_size, context=context)
    if biases and rotary.size != head_size:
        # The classes of these models rotate whole heads, whatever a config says.
        config.refuse("partial_rotary_factor", 1.0)
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        window=None if window is None else config.whole("sliding_window", largest=LARGEST_CONTEXT),
        rotary=rotary,
        biases=biases,
    )
