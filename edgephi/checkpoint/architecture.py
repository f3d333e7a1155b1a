"""`config.json` of a checkpoint -> the facts about its architecture that every later step uses.

Nothing here trusts the file: a number of the wrong type or size, a missing key or an option that would
change the computation is refused with its name, before anybody allocates memory or downloads weights.
"""

import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgephi.bundle.chat_formats import MODEL_TYPE, NOT_YET_SUPPORTED, RotaryEmbedding
from edgephi.commands import edgephi_command
from edgephi.errors import BadCheckpointError, NotSupportedError

_HINT = "give a Phi-3-family checkpoint as its makers published it"
_HINT_SUPPORTED = f"`{edgephi_command('recipes')}` lists the models that edgephi builds"
_LARGEST_CONFIG_BYTES = 16 << 20
_LARGEST_SIZE = 1 << 24
_LARGEST_CONTEXT = 1 << 31


@dataclass(frozen=True)
class Architecture:
    """The shape of one `Phi3ForCausalLM`.

    `head_size` is `hidden_size // heads`. A token sees itself and the `sliding_window - 1` tokens before
    it; None means all of them. With `tied_embeddings` the head is the embedding's matrix.
    """

    vocabulary_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    norm_epsilon: float
    rotary: RotaryEmbedding
    context: int
    sliding_window: int | None
    tied_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.heads

    @property
    def qkv_rows(self) -> int:
        """Rows of the fused projection: all query heads, then all key heads, then all value heads."""
        return (self.heads + 2 * self.kv_heads) * self.head_size

    @property
    def head_name(self) -> str:
        """The tensor that turns hidden states into logits."""
        return "model.embed_tokens.weight" if self.tied_embeddings else "lm_head.weight"

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of the checkpoint, under the names that `transformers` saves."""
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary_size, self.hidden_size)
        }
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            shapes[prefix + "input_layernorm.weight"] = (self.hidden_size,)
            shapes[prefix + "self_attn.qkv_proj.weight"] = (self.qkv_rows, self.hidden_size)
            shapes[prefix + "self_attn.o_proj.weight"] = (self.hidden_size, self.heads * self.head_size)
            shapes[prefix + "post_attention_layernorm.weight"] = (self.hidden_size,)
            shapes[prefix + "mlp.gate_up_proj.weight"] = (2 * self.intermediate_size, self.hidden_size)
            shapes[prefix + "mlp.down_proj.weight"] = (self.hidden_size, self.intermediate_size)
        shapes["model.norm.weight"] = (self.hidden_size,)
        if not self.tied_embeddings:
            shapes["lm_head.weight"] = (self.vocabulary_size, self.hidden_size)
        return shapes

    @property
    def parameters(self) -> int:
        """Number of weights in the checkpoint."""
        total = 0
        for shape in self.tensor_shapes().values():
            total += shape[0] * (shape[1] if len(shape) == 2 else 1)
        return total


def load_architecture(folder: Path, *, name: str | None = None) -> Architecture:
    """Read `config.json` and, where there is one, `generation_config.json` of the checkpoint in `folder`.

    `name` stands for the folder in messages. Raises BadCheckpointError or NotSupportedError.
    """
    place = name or str(folder)
    config = read_json_object(folder / "config.json", where=f"{place}: config.json")
    generation: Mapping[str, Any] | None = None
    if (folder / "generation_config.json").is_file():
        where = f"{place}: generation_config.json"
        generation = read_json_object(folder / "generation_config.json", where=where)
    return read_architecture(config, where=f"{place}: config.json", generation_config=generation)


def read_architecture(
    config: Mapping[str, Any], *, where: str, generation_config: Mapping[str, Any] | None = None
) -> Architecture:
    """Check a parsed `config.json` and turn it into an Architecture; `where` names it in messages.

    Understands the keys of the published models and the `rope_parameters` that transformers 5 writes.
    Tokens that end an answer are those of `generation_config`, then those of `config`.
    Raises NotSupportedError for a model or option edgephi cannot build, BadCheckpointError for a file
    that is broken or contradicts itself.
    """
    keys = _Keys(config, where)
    _refuse_other_models(keys)
    vocabulary_size = keys.whole("vocab_size")
    hidden_size = keys.whole("hidden_size")
    heads = keys.whole("num_attention_heads")
    kv_heads = keys.whole("num_key_value_heads", default=heads)
    context = keys.whole("max_position_embeddings", largest=_LARGEST_CONTEXT)
    if hidden_size % heads:
        keys.fail("hidden_size", f"a multiple of num_attention_heads = {heads}", hidden_size)
    if heads % kv_heads:
        keys.fail("num_key_value_heads", f"a divisor of num_attention_heads = {heads}", kv_heads)
    if config.get("head_dim") not in (None, hidden_size // heads):
        keys.refuse("head_dim", hidden_size // heads)
    window = config.get("sliding_window")
    generation = _Keys(generation_config or {}, where.replace("config.json", "generation_config.json"))
    eos = generation.token_ids("eos_token_id", vocabulary_size)
    eos += keys.token_ids("eos_token_id", vocabulary_size)
    bos = keys.token_ids("bos_token_id", vocabulary_size)
    pad = keys.token_ids("pad_token_id", vocabulary_size)
    return Architecture(
        vocabulary_size=vocabulary_size,
        hidden_size=hidden_size,
        intermediate_size=keys.whole("intermediate_size"),
        layers=keys.whole("num_hidden_layers", largest=1024),
        heads=heads,
        kv_heads=kv_heads,
        norm_epsilon=keys.number("rms_norm_eps", default=1e-5),
        rotary=_read_rotary(keys, head_size=hidden_size // heads, context=context),
        context=context,
        sliding_window=None if window is None else keys.whole("sliding_window", largest=_LARGEST_CONTEXT),
        tied_embeddings=keys.flag("tie_word_embeddings"),
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=tuple(dict.fromkeys(eos)),
        pad_token_id=pad[0] if pad else None,
    )


@dataclass(frozen=True)
class _Keys:
    """One JSON object under suspicion: each method reads a key and raises when it is not what it must be."""

    data: Mapping[str, Any]
    where: str

    def fail(self, key: str, expected: str, found: object) -> typing.Never:
        """Raise BadCheckpointError for the value of `key`."""
        shown = repr(found)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise BadCheckpointError(f"{self.where}: {key}: expected {expected}, found {shown}", hint=_HINT)

    def refuse(self, key: str, supported: object) -> typing.Never:
        """Raise NotSupportedError: the value of `key` is legal, but edgephi builds `supported` only."""
        raise NotSupportedError(
            f"{self.where}: {key}: edgephi supports {supported!r}, found {self.data.get(key)!r}",
            hint=_HINT_SUPPORTED,
        )

    def whole(self, key: str, *, default: int | None = None, largest: int = _LARGEST_SIZE) -> int:
        """A whole number from 1 to `largest`."""
        value = self.data.get(key)
        if value is None and default is not None:
            return default
        expected = f"a whole number from 1 to {largest}"
        if value is None:
            self.fail(key, expected, "nothing" if key not in self.data else None)
        if type(value) is not int or not 1 <= value <= largest:
            self.fail(key, expected, value)
        return value

    def number(self, key: str, *, default: float | None = None) -> float:
        """A finite number above zero."""
        value: Any = self.data.get(key)
        if value is None and default is not None:
            return default
        if type(value) not in (int, float) or not 0 < value < 1e12:
            self.fail(key, "a finite number above 0", value)
        return float(value)

    def numbers(self, key: str, *, count: int) -> tuple[float, ...]:
        """A list of `count` finite numbers above zero."""
        values = self.data.get(key)
        if not isinstance(values, list) or len(values) != count:
            found = f"{len(values)} of them" if isinstance(values, list) else values
            self.fail(key, f"a list of {count} numbers", found)
        for place in range(count):
            if type(values[place]) not in (int, float) or not 0 < values[place] < 1e12:
                self.fail(f"{key}[{place}]", "a finite number above 0", values[place])
        return tuple(float(value) for value in values)

    def flag(self, key: str) -> bool:
        """True or false; false when the key is missing."""
        value = self.data.get(key)
        if value is not None and type(value) is not bool:
            self.fail(key, "true or false", value)
        return bool(value)

    def token_ids(self, key: str, vocabulary_size: int) -> list[int]:
        """The ids of `key`, which is an id, a list of ids or null; each inside the vocabulary."""
        value = self.data.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        for id_ in ids:
            if type(id_) is not int or not 0 <= id_ < vocabulary_size:
                self.fail(key, f"token ids below vocab_size = {vocabulary_size}", id_)
        return ids


def _refuse_other_models(keys: _Keys) -> None:
    """Raise for every model, and every option of a phi3, whose computation differs from the one we build."""
    model_type = keys.data.get("model_type")
    if not isinstance(model_type, str):
        keys.fail("model_type", repr(MODEL_TYPE), model_type)
    if model_type in NOT_YET_SUPPORTED:
        raise NotSupportedError(
            f"{keys.where}: {NOT_YET_SUPPORTED[model_type]} is not supported yet", hint=_HINT_SUPPORTED
        )
    if model_type != MODEL_TYPE:
        keys.refuse("model_type", MODEL_TYPE)
    for option in ("attention_bias", "lm_head_bias", "mlp_bias"):
        if keys.flag(option):
            keys.refuse(option, False)
    if keys.data.get("hidden_act", "silu") != "silu":
        keys.refuse("hidden_act", "silu")
    if keys.data.get("quantization_config") is not None:
        raise NotSupportedError(
            f"{keys.where}: expected original weights, found a checkpoint that is quantised already",
            hint="give the original checkpoint: edgephi quantises it itself",
        )


def _read_rotary(keys: _Keys, *, head_size: int, context: int) -> RotaryEmbedding:
    """RoPE from the classic keys, or from `rope_parameters`, whose entries win as they do in transformers."""
    name = "rope_scaling" if keys.data.get("rope_scaling") else "rope_parameters"
    table = keys.data.get(name) or {}
    if not isinstance(table, Mapping):
        keys.fail(name, "a table or null", table)
    rope = _Keys(table, f"{keys.where}: {name}")
    theta = rope.number("rope_theta", default=keys.number("rope_theta", default=10000.0))
    outer = keys.number("partial_rotary_factor", default=1.0)
    share = rope.number("partial_rotary_factor", default=outer)
    size = int(head_size * share)
    if share > 1 or size < 2 or size % 2:
        keys.fail("partial_rotary_factor", f"an even part of the head size {head_size}", share)

    kind_key = "rope_type" if "rope_type" in table else "type"
    kind = table.get(kind_key) or "default"
    if kind == "default":
        original = keys.whole("original_max_position_embeddings", default=context, largest=_LARGEST_CONTEXT)
        return RotaryEmbedding(size=size, theta=theta, original_context=original, context=context)
    if kind not in ("su", "longrope"):
        rope.refuse(kind_key, "longrope")

    # The key stands outside of the table in every published model, and there it wins. Nothing may stand in
    # for it: a wrong guess would switch the factors at the wrong length.
    holder = keys if "original_max_position_embeddings" in keys.data else rope
    original = holder.whole("original_max_position_embeddings", largest=_LARGEST_CONTEXT)
    if original < 2:
        holder.fail("original_max_position_embeddings", "at least 2", original)
    return RotaryEmbedding(
        size=size,
        theta=theta,
        original_context=original,
        context=context,
        short_factor=rope.numbers("short_factor", count=size // 2),
        long_factor=rope.numbers("long_factor", count=size // 2),
        attention_factor=_attention_factor(rope, original_context=original),
    )


def _attention_factor(rope: _Keys, *, original_context: int) -> float | None:
    """What a LongRoPE table says about the magnitude of cosines and sines; None: the usual formula."""
    table = rope.data
    if table.get("short_mscale") is not None or table.get("long_mscale") is not None:
        short, long = rope.number("short_mscale"), rope.number("long_mscale")
        if short != long:
            rope.refuse("long_mscale", short)
        return short
    if table.get("attention_factor") is not None:
        return rope.number("attention_factor")
    if table.get("factor") is not None:
        stretch = rope.number("factor")
        return 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(original_context))
    return None


def read_json_object(file: Path, *, where: str) -> Mapping[str, Any]:
    """The JSON object in `file`. Raises BadCheckpointError when there is none."""
    if not file.is_file():
        raise BadCheckpointError(f"{where}: expected this file, found none", hint=_HINT)
    if file.stat().st_size > _LARGEST_CONFIG_BYTES:
        raise BadCheckpointError(
            f"{where}: expected at most {_LARGEST_CONFIG_BYTES} bytes, found {file.stat().st_size}",
            hint=_HINT,
        )
    try:
        data = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as cause:
        raise BadCheckpointError(f"{where}: expected JSON, found {cause}", hint=_HINT) from None
    if not isinstance(data, dict):
        raise BadCheckpointError(f"{where}: expected a table, found {type(data).__name__}", hint=_HINT)
    return data
