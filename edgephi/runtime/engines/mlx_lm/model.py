"""The model that mlx-lm computes with, from an artifact's files, and others of its arrays with an adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from edgephi.engines.mlx_lm import CONFIG_FILE, DATA_FILE

_RIGHT, _LEFT = ".lora_a", ".lora_b"  # mlx-lm's names for the two, which it holds transposed


def load_model(mlx: Any, phi3: ModuleType, artifact: Path, provider: str) -> Any:
    """What `mlx_lm.load` makes of the artifact.

    On a CPU everything that is float16 becomes float32 first, which changes no weight: outside of Apple's
    processors MLX computes float16 in software, 37 times slower.
    """
    weights = _for_provider(mlx.core, mlx.core.load(str(artifact / DATA_FILE)), provider)
    model = _empty_model(mlx, phi3, artifact, weights)
    model.load_weights(list(weights.items()), strict=True)
    mlx.core.eval(model.parameters())
    return model


def with_adapter(mlx: Any, phi3: ModuleType, artifact: Path, provider: str, *, model: Any, file: Path) -> Any:
    """Another model of the same arrays, with an adapter's small matrices beside some of them.

    `file` is as mlx-lm's own `adapters.safetensors`: x + scale * (x @ a) @ b, with the scale in b.
    """
    adapter = _for_provider(mlx.core, mlx.core.load(str(file)), provider)
    parameters = dict(mlx.utils.tree_flatten(model.parameters()))
    adapted = _empty_model(mlx, phi3, artifact, parameters)
    adapted.load_weights(list(parameters.items()), strict=True)
    modules = dict(adapted.named_modules())
    layer = _low_rank_layer(mlx.nn)
    changed = {}
    for name in sorted({name.rpartition(".")[0] for name in adapter}):
        right, left = adapter.pop(name + _RIGHT), adapter.pop(name + _LEFT)  # [columns, rank], [rank, rows]
        changed[name] = layer(modules[name], right, left)
    if adapter:
        raise KeyError(min(adapter))
    adapted.update_modules(mlx.utils.tree_unflatten(list(changed.items())))
    mlx.core.eval(adapted.parameters())
    return adapted


def _empty_model(mlx: Any, phi3: ModuleType, artifact: Path, weights: Mapping[str, Any]) -> Any:
    """The model without its weights: those it has now are never computed."""
    config = json.loads((artifact / CONFIG_FILE).read_bytes())
    model = phi3.Model(phi3.ModelArgs.from_dict(config))
    quantization = config["quantization"]
    mlx.nn.quantize(
        model,
        group_size=quantization["group_size"],
        bits=quantization["bits"],
        class_predicate=lambda path, _: quantization.get(path, f"{path}.scales" in weights),
    )
    return model


def _for_provider(mx: Any, weights: Mapping[str, Any], provider: str) -> dict[str, Any]:
    if provider != "cpu":
        return dict(weights)
    return {
        name: array.astype(mx.float32) if array.dtype == mx.float16 else array
        for name, array in weights.items()
    }


def _low_rank_layer(nn: Any) -> Any:
    """The class of a linear layer with two small matrices beside it: MLX is not there before it is needed."""

    class LowRankLayer(nn.Module):  # type: ignore[misc]
        def __init__(self, linear: Any, right: Any, left: Any) -> None:
            super().__init__()
            self.linear, self.lora_a, self.lora_b = linear, right, left

        def __call__(self, inputs: Any) -> Any:
            small = (inputs @ self.lora_a) @ self.lora_b
            return self.linear(inputs) + small.astype(inputs.dtype)

    return LowRankLayer
