"""Tiny random checkpoints that are laid out exactly as the published Phi-3 family is.

Same tensor names, config keys, tokenizer layout and LongRoPE curves; a few hundred kilobytes instead of
gigabytes. Every test that needs a checkpoint writes its own with `write_tiny_checkpoint`.
"""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tests.export.gguf.llama_tokenizer import LLAMA_STEPS

FloatKind = Literal["BF16", "F16", "F32"]

PHI_3_TOKENS = (
    "<|endoftext|>",
    "<|assistant|>",
    "<|placeholder1|>",
    "<|placeholder2|>",
    "<|placeholder3|>",
    "<|placeholder4|>",
    "<|system|>",
    "<|end|>",
    "<|placeholder5|>",
    "<|placeholder6|>",
    "<|user|>",
)
PHI_4_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>")

# Every fourth LongRoPE factor of Phi-3.5-mini and Phi-4-mini: real curves, to be spread over any head size.
PHI_3_5_SHORT = (1.0, 1.05, 1.05, 1.16, 1.34, 1.85, 1.99, 2.02, 2.03, 2.03, 2.08, 2.59, 2.84)
PHI_3_5_LONG = (1.08, 1.59, 3.23, 7.7, 24.46, 32.59, 50.34, 58.21, 62.71, 63.93, 64.07, 64.48, 64.84)
PHI_4_MINI_SHORT = (1.0,) * 13
PHI_4_MINI_LONG = (1.0, 1.564, 2.446, 3.826, 5.985, 9.361, 14.642, 22.9, 32.1, 32.61, 32.71, 33.49, 47.77)


@dataclass(frozen=True)
class TinyShape:
    """Options of one tiny checkpoint. `shards` files; `std` of the weights; norms lie around 1 ± 0.1."""

    hidden: int = 256
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 512
    vocab: int = 512
    context: int = 4096
    original_context: int = 4096
    longrope: bool = False
    short_factor: tuple[float, ...] = PHI_3_5_SHORT
    long_factor: tuple[float, ...] = PHI_3_5_LONG
    rope_theta: float = 10000.0
    partial_rotary: float = 1.0
    tied: bool = False
    sliding_window: int | None = None
    chat: Literal["phi-3", "phi-4"] = "phi-3"
    dtype: FloatKind = "BF16"
    shards: int = 1
    seed: int = 0
    std: float = 0.02


SHAPES: dict[str, TinyShape] = {
    "mini-4k": TinyShape(kv_heads=4, sliding_window=2047),
    "mini-128k": TinyShape(kv_heads=4, context=131072, longrope=True, sliding_window=262144),
    "medium": TinyShape(heads=8, kv_heads=2, sliding_window=2047),
    # heads of 64, so that three quarters of each, 48, is a multiple of 16 as in the published model (96)
    "phi-4-mini": TinyShape(
        context=131072,
        longrope=True,
        short_factor=PHI_4_MINI_SHORT,
        long_factor=PHI_4_MINI_LONG,
        partial_rotary=0.75,
        tied=True,
        sliding_window=262144,
    ),
    "phi-4": TinyShape(
        heads=8, kv_heads=2, context=16384, original_context=16384, rope_theta=250000.0, chat="phi-4"
    ),
}

CHANGED_BY_LENGTH = [
    name for name, shape in SHAPES.items() if shape.longrope or shape.sliding_window in range(1, 4096)
]
"""Shapes whose angles or mask are others in a long text: past the original context, or past the window."""
"""One tiny stand-in for each shape of the family that edgephi supports."""


def write_tiny_checkpoint(folder: Path, shape: TinyShape | str = TinyShape(), **options: Any) -> Path:
    """Write a checkpoint of `shape` (or the name of one in SHAPES), with single `options` replaced.

    Returns `folder`. The same arguments always write the same bytes.
    """
    start = SHAPES[shape] if isinstance(shape, str) else shape
    tiny = dataclasses.replace(start, **options)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer(tiny)
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    _write_json(folder / "config.json", tiny_config(tiny, ids))
    stops = [
        ids[token] for token in ("<|endoftext|>", "<|assistant|>", "<|end|>", "<|im_end|>") if token in ids
    ]
    end_of_text = ids["<|endoftext|>"]
    _write_json(
        folder / "generation_config.json",
        {"bos_token_id": 1, "eos_token_id": stops, "pad_token_id": end_of_text},
    )
    _write_json(folder / "tokenizer.json", tokenizer)
    _write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "add_eos_token": False,
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|endoftext|>",
            "legacy": False,
            "model_max_length": tiny.context,
            "pad_token": "<|endoftext|>",
            "padding_side": "left",
            "tokenizer_class": "LlamaTokenizer",
            "unk_token": "<unk>",
        },
    )
    write_weights(folder, tiny_weights(tiny), shards=tiny.shards, dtype=tiny.dtype)
    return folder


def write_with_phi_3_tokenizer(
    folder: Path,
    vocab: int,
    config: Callable[[int], dict[str, Any]],
    weights: dict[str, npt.NDArray[np.float32]],
    *,
    shards: int,
    dtype: FloatKind,
) -> Path:
    """Write a checkpoint of another kind, with a Phi-3's tokenizer; `config` is told the end of a text."""
    write_tiny_checkpoint(folder, TinyShape(hidden=32, layers=1, heads=1, kv_heads=1, ffn=32, vocab=vocab))
    plain = json.loads((folder / "config.json").read_text())
    _write_json(folder / "config.json", config(plain["eos_token_id"]))
    (folder / "model.safetensors").unlink()
    write_weights(folder, weights, shards=shards, dtype=dtype)
    return folder


def tiny_config(tiny: TinyShape, ids: dict[str, int]) -> dict[str, Any]:
    """The `config.json` of `tiny`, with the keys that the published models have."""
    rope_scaling = None
    if tiny.longrope:
        half = int(tiny.hidden // tiny.heads * tiny.partial_rotary) // 2
        rope_scaling = {
            "long_factor": spread(tiny.long_factor, half),
            "short_factor": spread(tiny.short_factor, half),
            "type": "longrope",
        }
    config: dict[str, Any] = {
        "architectures": ["Phi3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "embd_pdrop": 0.0,
        "eos_token_id": ids["<|endoftext|>"],
        "hidden_act": "silu",
        "hidden_size": tiny.hidden,
        "initializer_range": 0.02,
        "intermediate_size": tiny.ffn,
        "max_position_embeddings": tiny.context,
        "model_type": "phi3",
        "num_attention_heads": tiny.heads,
        "num_hidden_layers": tiny.layers,
        "num_key_value_heads": tiny.kv_heads,
        "original_max_position_embeddings": tiny.original_context,
        "pad_token_id": ids["<|endoftext|>"],
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-05,
        "rope_scaling": rope_scaling,
        "rope_theta": tiny.rope_theta,
        "sliding_window": tiny.sliding_window,
        "tie_word_embeddings": tiny.tied,
        "torch_dtype": {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[tiny.dtype],
        "use_cache": True,
        "vocab_size": tiny.vocab,
    }
    if tiny.partial_rotary != 1.0:
        config["partial_rotary_factor"] = tiny.partial_rotary
    return config


def tiny_weights(tiny: TinyShape) -> dict[str, npt.NDArray[np.float32]]:
    """Random weights of `tiny`, float32, in the order in which the published files hold them."""
    random = np.random.default_rng(tiny.seed)

    def matrix(rows: int, columns: int) -> npt.NDArray[np.float32]:
        return random.standard_normal((rows, columns), dtype=np.float32) * np.float32(tiny.std)

    def norm() -> npt.NDArray[np.float32]:
        return 1 + np.float32(0.1) * random.standard_normal(tiny.hidden, dtype=np.float32)

    head = tiny.hidden // tiny.heads
    weights = {"model.embed_tokens.weight": matrix(tiny.vocab, tiny.hidden)}
    for layer in range(tiny.layers):
        prefix = f"model.layers.{layer}."
        weights[prefix + "input_layernorm.weight"] = norm()
        weights[prefix + "mlp.down_proj.weight"] = matrix(tiny.hidden, tiny.ffn)
        weights[prefix + "mlp.gate_up_proj.weight"] = matrix(2 * tiny.ffn, tiny.hidden)
        weights[prefix + "post_attention_layernorm.weight"] = norm()
        weights[prefix + "self_attn.o_proj.weight"] = matrix(tiny.hidden, tiny.hidden)
        rows = (tiny.heads + 2 * tiny.kv_heads) * head
        weights[prefix + "self_attn.qkv_proj.weight"] = matrix(rows, tiny.hidden)
    weights["model.norm.weight"] = norm()
    if not tiny.tied:
        weights["lm_head.weight"] = matrix(tiny.vocab, tiny.hidden)
    return weights


def write_weights(
    folder: Path,
    weights: dict[str, npt.NDArray[np.float32]],
    *,
    shards: int = 1,
    dtype: FloatKind = "BF16",
) -> None:
    """Write `weights` as one safetensors file, or as `shards` of them with an index."""
    names = list(weights)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", [(name, dtype, weights[name]) for name in names])
        return
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        own = names[len(names) * shard // shards : len(names) * (shard + 1) // shards]
        write_safetensors(folder / file, [(name, dtype, weights[name]) for name in own])
        weight_map.update(dict.fromkeys(own, file))
    size = sum(w.size for w in weights.values()) * (4 if dtype == "F32" else 2)
    _write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": size}, "weight_map": weight_map},
    )


def write_safetensors(file: Path, tensors: Iterable[tuple[str, FloatKind, npt.NDArray[np.float32]]]) -> None:
    """Write float32 arrays in the safetensors format, each rounded to its dtype."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs: list[bytes] = []
    offset = 0
    for name, dtype, array in tensors:
        blob = encode(array, dtype)
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def encode(array: npt.NDArray[np.float32], dtype: FloatKind) -> bytes:
    """The little-endian bytes of `array` in `dtype`; bfloat16 rounds to nearest even."""
    if dtype == "F32":
        return array.astype("<f4").tobytes()
    if dtype == "F16":
        return array.astype("<f2").tobytes()
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


TOKENIZER_TEXT = """
the lamp in the kitchen is on turn off the light in the hall set the heating to twenty degrees what is the
temperature of the sensor open the door close the window how much memory is free restart the device the
network is down start the fan stop the pump read the meter and send the value every minute a model that
runs on a small box at the edge answers in a few words and needs no cloud The Answer is Yes or No:
{"action": "set", "value": 21}
"""


def tiny_tokenizer(tiny: TinyShape) -> dict[str, Any]:
    """A `tokenizer.json` with the layout of Phi-3's: byte-fallback BPE, then the special tokens.

    As in the published models the vocabulary is padded: its last ids belong to no token.
    """
    specials = PHI_4_TOKENS if tiny.chat == "phi-4" else PHI_3_TOKENS
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = Counter("▁" + word for word in TOKENIZER_TEXT.split())
    letters = sorted({letter for word in words for letter in word})
    merges = _merges(words, room=tiny.vocab - len(specials) - len(pieces) - len(letters) - 5)
    pieces += [first + second for first, second in merges] + letters
    added = [("<unk>", 0, True), ("<s>", 1, True), ("</s>", 2, False)]
    added += [(token, len(pieces) + place, True) for place, token in enumerate(specials)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": id_,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": special,
            }
            for token, id_, special in added
        ],
        **LLAMA_STEPS,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {piece: id_ for id_, piece in enumerate(pieces)},
            "merges": [f"{first} {second}" for first, second in merges],
        },
    }


def _merges(words: Counter[str], *, room: int) -> list[tuple[str, str]]:
    """At most `room` byte-pair merges learned from `words`, most frequent first, each a new piece."""
    split = {word: list(word) for word in words}
    merges: list[tuple[str, str]] = []
    known: set[str] = set()
    while len(merges) < room:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word]
        fresh = [(-count, pair) for pair, count in pairs.items() if "".join(pair) not in known]
        if not fresh:
            break
        best = min(fresh)[1]
        merges.append(best)
        known.add("".join(best))
        for parts in split.values():
            place = 0
            while place < len(parts) - 1:
                if (parts[place], parts[place + 1]) == best:
                    parts[place : place + 2] = ["".join(best)]
                place += 1
    return merges


def spread(curve: tuple[float, ...], count: int) -> list[float]:
    """`count` points of the piecewise linear `curve`, ends included."""
    at = np.linspace(0, len(curve) - 1, count)
    return [round(float(value), 6) for value in np.interp(at, np.arange(len(curve)), curve)]


def _write_json(file: Path, data: object) -> None:
    file.write_text(json.dumps(data, indent=1, ensure_ascii=False), encoding="utf-8")
