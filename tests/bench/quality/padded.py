"""The same model in a wider shape, so that formats with long blocks can be judged where they fit.

Super-blocks of llama.cpp have 256 columns, as every published Phi-3 has multiples of, but not every small
trained model. Channels, heads and columns of zeros change nothing that a model computes: RMSNorm's mean
shrinks by a factor that its weights and epsilon make up for.
"""

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.bench.quality.harness import HEAD, Arrays, Floats

BLOCK = 256


@dataclass(frozen=True)
class Shape:
    """The numbers of channels that make up a model's matrices."""

    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head: int

    @property
    def wider(self) -> "Shape":
        """The next shape whose matrices all have multiples of BLOCK columns."""
        each = self.heads // self.kv_heads
        hidden = next(
            size
            for size in range(-(-self.hidden // BLOCK) * BLOCK, 1 << 20, BLOCK)
            if size % (each * self.head) == 0
        )
        heads = hidden // self.head
        return Shape(hidden, -(-self.inner // BLOCK) * BLOCK, heads, heads // each, self.head)


def shape_of(checkpoint: Path) -> Shape:
    """The shape of a checkpoint whose heads fill its channels."""
    config = json.loads((checkpoint / "config.json").read_bytes())
    heads = config["num_attention_heads"]
    hidden = config["hidden_size"]
    return Shape(hidden, config["intermediate_size"], heads, config["num_key_value_heads"], hidden // heads)


def write_padded(checkpoint: Path, weights: Arrays, folder: Path) -> Path:
    """Write a checkpoint of the wider shape, in float32, with the other's tokenizer. Returns `folder`."""
    folder.mkdir()
    for file in checkpoint.iterdir():
        if not file.name.startswith("model."):
            shutil.copyfile(file, folder / file.name)
    shape = shape_of(checkpoint)
    wider = shape.wider
    config = json.loads((checkpoint / "config.json").read_bytes())
    config |= {
        "hidden_size": wider.hidden,
        "intermediate_size": wider.inner,
        "num_attention_heads": wider.heads,
        "num_key_value_heads": wider.kv_heads,
        "rms_norm_eps": config["rms_norm_eps"] * shape.hidden / wider.hidden,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tied = bool(config["tie_word_embeddings"])
    stored = {
        name: _moved(name, value, shape, wider)
        for name, value in weights.items()
        if not (tied and name == HEAD)
    }
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def cut(weights: Arrays, shape: Shape) -> Arrays:
    """The weights of the original shape out of those of the wider one."""
    return {name: _moved(name, value, shape.wider, shape) for name, value in weights.items()}


def _moved(name: str, weights: Floats, old: Shape, new: Shape) -> Floats:
    """A tensor of one shape in the other: what both have, and zeros."""
    if weights.ndim == 1:
        norm = _fitted(weights, new.hidden)
        return norm * np.float32(math.sqrt(old.hidden / new.hidden))
    if "qkv_proj" in name:
        parts = [(each.heads * each.head, each.kv_heads * each.head) for each in (old, new)]
        (query, key), (new_query, new_key) = parts
        bounds = np.split(weights, [query, query + key])
        rows = [_fitted(part, size) for part, size in zip(bounds, (new_query, new_key, new_key), strict=True)]
    elif "gate_up_proj" in name:
        rows = [_fitted(part, new.inner) for part in np.split(weights, 2)]
    elif "o_proj" in name or "down_proj" in name:
        rows = [_fitted(weights, new.hidden)]
    else:
        rows = [weights]
    columns = new.inner if "down_proj" in name else new.hidden
    return np.ascontiguousarray(_fitted(np.concatenate(rows).T, columns).T)


def _fitted(array: Floats, count: int) -> Floats:
    """The first `count` rows, or all and rows of zeros."""
    missing = max(0, count - len(array))
    return np.pad(array[:count], [(0, missing), *[(0, 0)] * (array.ndim - 1)])
