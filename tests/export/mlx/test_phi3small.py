"""The MLX artifact of Phi-3-small: our class computes what the published code does with its weights.

The oracle is the second implementation of `tests/reference/test_phi3small.py`. It goes token by token, so
long texts are held against the reference, which that test holds against it.
"""

import itertools
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgephi.checkpoint.checkpoint import open_checkpoint
from edgephi.export.mlx import exporter
from edgephi.reference.forward import final_hidden_states, logits
from tests.export.mlx.test_exporter import Exported, dequantised, export_opened
from tests.export.oracle import Floats, mean_kl
from tests.reference.test_phi3small import Second
from tests.tiny_checkpoint import write_weights
from tests.tiny_phi3small import UNUSED, TinySmall, write_tiny_phi3small

mx: Any = pytest.importorskip("mlx.core")

ROUNDING = 1e-9  # nats, of float32
LITTLE: dict[str, Any] = {"block": 16, "local_blocks": 2}
"""Options with which attention is sparse from the 33rd token on."""


def some_ids(count: int, *, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, 300, count)]


class ExportedSmall(Exported):
    """A tiny Phi-3-small and its artifact."""

    @cached_property
    def model(self) -> Any:
        """Our classes, by the hook of mlx-lm's loader."""
        from mlx_lm.utils import load_model

        from edgephi.runtime.engines.mlx_lm.models import classes_of

        model, _ = load_model(self.folder, get_model_classes=lambda config: classes_of(config["model_type"]))
        return model

    def by_reference(self, ids: list[int]) -> Floats:
        """Logits of every token by the reference, with the artifact's weights."""
        weights = exporter.artifact_weights(self.folder, self.checkpoint.architecture)
        [hidden] = final_hidden_states([weights], [ids])
        return logits(weights, hidden)

    def by_published_code(self, ids: list[int], tiny: TinySmall) -> Floats:
        """The same by the second implementation, with the weights as MLX dequantises them."""
        again = self.folder.parent / "again"
        again.mkdir()
        write_weights(again, published(dequantised(self.folder), tiny), dtype="F32")
        found: Floats = Second(again, tiny).logits(ids).astype(np.float32)
        return found


MODULES = {
    "o_proj": "dense",
    "qkv_proj": "query_key_value",
    "gate_up_proj": "up_proj",
    "model.norm": "model.final_layernorm",
}
"""Ours, and what the published code calls them."""


def published(stored: dict[str, Floats], tiny: TinySmall) -> dict[str, Floats]:
    """Weights by the names, and with the rows, of the published checkpoint."""
    found = {}
    for name, array in stored.items():
        module = next((module for module in MODULES if f"{module}." in name), "")
        found[name.replace(module, MODULES[module]) if module else name] = in_their_order(array, module, tiny)
    return found


def in_their_order(array: Floats, module: str, tiny: TinySmall) -> Floats:
    """The rows of a tensor as the published code has them: by key heads, and gate and up in turns."""
    if module == "gate_up_proj":
        return np.stack(np.split(array, 2), axis=1).reshape(array.shape)
    if module != "qkv_proj":
        return array
    size, group = tiny.hidden // tiny.heads, tiny.heads // tiny.kv_heads
    heads = array.reshape(-1, size, *array.shape[1:])
    queries, keys, values = np.split(heads, [tiny.heads, tiny.heads + tiny.kv_heads])
    own = ([*queries[head * group :][:group], keys[head], values[head]] for head in range(tiny.kv_heads))
    return np.concatenate([*itertools.chain.from_iterable(own)])


def export(folder: Path, tiny: TinySmall) -> ExportedSmall:
    written = write_tiny_phi3small(folder / "checkpoint", tiny)
    checkpoint = open_checkpoint(written, id="tiny", revision="local")
    (folder / "artifact").mkdir()
    exported = export_opened(checkpoint, folder / "artifact")
    return ExportedSmall(exported.checkpoint, exported.folder, exported.context)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"same_for_all_heads": True},
        {"local_blocks": 3, "stride": 16, "heads": 4, "dense_every": 3},
        {"dense_every": 1},
        {"longrope": True, "original_context": 128, "context": 256, "short_magnitude": 1.1},
    ],
)
def test_the_published_code_says_the_same(tmp_path: Path, options: dict[str, Any]) -> None:
    tiny = TinySmall(**{**LITTLE, **options})
    exported = export(tmp_path, tiny)
    ids = some_ids(120)
    expected = exported.by_published_code(ids, tiny)
    for length in (1, 32, 33, 120):
        assert mean_kl(expected[:length], exported.prefill(ids[:length])) <= ROUNDING
    assert mean_kl(expected, exported.stepped(ids)) <= ROUNDING
    assert (exported.prefill(ids)[:, UNUSED] == np.finfo(np.float32).min).all()


def test_attention_would_see_more_in_a_dense_model(tmp_path: Path) -> None:
    """The test above would see nothing if it did not matter which keys are seen."""
    ids = some_ids(120)
    (tmp_path / "sparse").mkdir()
    (tmp_path / "dense").mkdir()
    sparse = export(tmp_path / "sparse", TinySmall(**LITTLE)).prefill(ids)
    dense = export(tmp_path / "dense", TinySmall(**LITTLE, dense_every=1)).prefill(ids)
    assert mean_kl(sparse[:32], dense[:32]) <= ROUNDING
    assert mean_kl(sparse, dense) > 1e4 * ROUNDING


@pytest.mark.slow
def test_texts_of_every_length(tmp_path: Path) -> None:
    """The real blocks, of which the 1,025th token does not see all."""
    tiny = TinySmall(hidden=128, heads=8, kv_heads=2, layers=2, ffn=128)
    exported = export(tmp_path, tiny)
    assert exported.context == 8192
    ids = some_ids(4097)
    expected = exported.by_reference(ids)
    for length in (512, 1023, 1024, 1025, 2100, 4097):  # the last one holds 4,095 and 4,096 as well
        assert mean_kl(expected[:length], exported.prefill(ids[:length])) <= ROUNDING


def test_longropes_original_context_ends_it(tmp_path: Path) -> None:
    tiny = TinySmall(**LITTLE, layers=1, longrope=True, original_context=8192, context=131072)
    assert export(tmp_path, tiny).context == 8192


def test_in_chunks(tmp_path: Path) -> None:
    from mlx_lm.models.cache import make_prompt_cache

    exported = export(tmp_path, TinySmall(**LITTLE))
    ids, cache, found = some_ids(120), make_prompt_cache(exported.model), []
    for start, stop in ((0, 30), (30, 70), (70, 71), (71, 120)):
        found.append(np.array(exported.model(mx.array([ids[start:stop]]), cache=cache)[0]))
    assert mean_kl(exported.by_reference(ids), np.concatenate(found)) <= ROUNDING


def test_mlx_lms_own_class_does_not_take_it(tmp_path: Path) -> None:
    """It would compute another model: a token would see those after it."""
    from mlx_lm.utils import load_model

    exported = export(tmp_path, TinySmall(block=32, layers=1))
    with pytest.raises(ValueError, match="not in model"):
        load_model(exported.folder)
