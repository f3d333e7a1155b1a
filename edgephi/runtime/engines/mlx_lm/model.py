"""The model that computes, from an artifact's files, and others of its arrays with an adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgephi.engines.mlx_lm import CONFIG_FILE, DATA_FILE
from edgephi.runtime.engines.mlx_lm.models import classes_of

_RIGHT, _LEFT = ".lora_a", ".lora_b"  # mlx-lm's names for the two, which it holds transposed


def load_model(artifact: Path, provider: str) -> Any:
    """What `mlx_lm.load` makes of the artifact, where mlx-lm computes its model.

    On a CPU everything that is float16 becomes float32 first, which changes no weight: outside of Apple's
    processors MLX computes float16 in software, 37 times slower.
    """
    import mlx.core as mx

    stored: Any = mx.load(str(artifact / DATA_FILE))
    weights = for_provider(stored, provider)
    model = _empty_model(artifact, weights)
    model.load_weights(list(weights.items()), strict=True)
    mx.eval(model.parameters())
    return model


def with_adapter(model: Any, file: Path, artifact: Path, provider: str) -> Any:
    """Another model of the same arrays, with an adapter's small matrices beside some of them.

    `file` is as mlx-lm's own `adapters.safetensors`: x + scale * (x @ a) @ b, with the scale in b.
    """
    import mlx.core as mx
    from mlx import nn
    from mlx.utils import tree_flatten, tree_unflatten

    stored: Any = mx.load(str(file))
    adapter = for_provider(stored, provider)
    parameters = dict(tree_flatten(model.parameters()))
    adapted = _empty_model(artifact, parameters)
    adapted.load_weights(list(parameters.items()), strict=True)
    modules = dict(adapted.named_modules())
    layer = _low_rank_layer(nn)
    changed = {}
    for name in sorted({name.rpartition(".")[0] for name in adapter}):
        right, left = adapter.pop(name + _RIGHT), adapter.pop(name + _LEFT)  # [columns, rank], [rank, rows]
        changed[name] = layer(modules[name], right, left)
    if adapter:
        raise KeyError(min(adapter))
    adapted.update_modules(tree_unflatten(list(changed.items())))
    mx.eval(adapted.parameters())
    return adapted


def _empty_model(artifact: Path, weights: Mapping[str, Any]) -> Any:
    """The model without its weights: those it has now are never computed."""
    from mlx.nn import quantize

    config = json.loads((artifact / CONFIG_FILE).read_bytes())
    model_class, arguments = classes_of(config["model_type"])
    model = model_class(arguments.from_dict(config))
    quantization = config["quantization"]
    quantize(
        model,
        group_size=quantization["group_size"],
        bits=quantization["bits"],
        class_predicate=lambda path, _: quantization.get(path, f"{path}.scales" in weights),
    )
    return model


def for_provider(weights: Mapping[str, Any], provider: str) -> dict[str, Any]:
    """The arrays of a file as a provider computes with them: see `load_model`."""
    import mlx.core as mx

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
