"""The MLX artifact for mlx-lm: `model.safetensors` in MLX's packed layout, `config.json` and the tokenizer.

The graph is a class of the engine's, mlx-lm's or ours, so the artifact is weights and a configuration, and
MLX is not needed to write it.

None of these classes computes an attention window or changes LongRoPE's factors, so the context ends where
either would matter: see `context_limit`.
"""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

from edgephi.bundle.manifest import TOKENIZER_FILE
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.declared.target import Target
from edgephi.engines.facts.footprint import Footprint
from edgephi.engines.mlx_lm import CONFIG_FILE, DATA_FILE, FACTS, INDEX_FILE
from edgephi.errors import NotSupportedError
from edgephi.export.exporter import ContextLimit
from edgephi.export.mlx.configuration import mlx_config, tokenizer_config
from edgephi.export.mlx.known_models import check_known
from edgephi.export.mlx.layout import float_type, lay_out, pack
from edgephi.export.mlx.weights import ArtifactWeights
from edgephi.export.stream.one_pass import StreamReport, stream_tensors
from edgephi.quantize.tensor_plan import TensorPlans, quantised_tensors
from edgephi.steps import Step, silent

TOKENIZER_CONFIG_FILE = "tokenizer_config.json"


def footprint(target: Target) -> Footprint:
    """Activations and cache in the type of the target's kernels."""
    size = float_type(target.kernels).itemsize
    facts = FACTS.provider(target.provider).footprint
    return replace(facts, cache_bytes_per_number=size, activation_bytes=size)


def check_architecture(architecture: Architecture) -> None:
    """Raise NotSupportedError for a model that no class, of mlx-lm's or of ours, computes rightly."""
    check_known(architecture)


def context_limit(architecture: Architecture) -> ContextLimit | None:
    """The attention window or LongRoPE's original context, whichever is less: the engine knows neither."""
    limits = []
    rotary, window = architecture.attention.rotary, architecture.attention.window
    if rotary.long_factor is not None:
        reason = (
            f"mlx-lm never changes LongRoPE's factors, this model does at {rotary.original_context} tokens"
        )
        limits.append(ContextLimit(rotary.original_context, reason))
    if window is not None:
        reason = f"mlx-lm computes no attention window, this model has one of {window} tokens"
        limits.append(ContextLimit(window, reason))
    return min((limit for limit in limits if limit.tokens < architecture.context), key=_tokens, default=None)


def check_schemes(plans: TensorPlans, target: Target) -> None:
    """Refuse float16 for zero points other than the middle: their biases would be rounded."""
    zero_points = any(
        not scheme.symmetric and scheme.scales != "offset" for scheme in quantised_tensors(plans).values()
    )
    if zero_points and target.kernels.activations == "float16":
        raise NotSupportedError(
            f"{target.name}: expected symmetric = true with float16, whose biases hold nothing else exactly",
            hint='set symmetric = true in the recipe, or activations = "float32" in a target of your own',
        )


def artifact_bytes(
    architecture: Architecture,
    plans: TensorPlans,
    target: Target,
    context: int,  # noqa: ARG001 - MLX computes its rotary tables itself
) -> int:
    """Size of `model.safetensors`."""
    nothing = dict.fromkeys(architecture.tensor_shapes(), ())
    layout = lay_out(nothing, architecture, plans, target.kernels)
    return len(layout.header) + layout.data_size


def write_artifact(
    folder: Path,
    checkpoint: Checkpoint,
    plans: TensorPlans,
    target: Target,
    context: int,
    *,
    step: Step = silent,
) -> StreamReport:
    """Write weights, configuration and tokenizer into `folder`, in one pass over the weights."""
    architecture = checkpoint.architecture
    layout = lay_out(checkpoint.sources, architecture, plans, target.kernels)
    with (folder / DATA_FILE).open("wb") as file:
        report = stream_tensors(
            checkpoint.shards,
            layout.tensors,
            partial(pack, float_type=float_type(target.kernels)),
            file,
            changes=checkpoint.changes,
            preamble=layout.header,
            step=step,
        )
    documents = {
        INDEX_FILE: {
            "metadata": {"total_size": layout.data_size},
            "weight_map": dict.fromkeys(sorted(layout.entries), DATA_FILE),
        },
        CONFIG_FILE: mlx_config(
            architecture, plans, target.kernels, checkpoint.tokenizer.stop_token_ids, context
        ),
        TOKENIZER_CONFIG_FILE: tokenizer_config(architecture, checkpoint.tokenizer, context),
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
    # The checkpoint's own tokenizer_config.json stays behind: it may name a class that changes the ids.
    shutil.copyfile(checkpoint.tokenizer.folder / TOKENIZER_FILE, folder / TOKENIZER_FILE)
    return report


def _tokens(limit: ContextLimit) -> int:
    return limit.tokens


def artifact_weights(folder: Path, architecture: Architecture) -> ArtifactWeights:
    """The weights of the artifact in `folder`."""
    return ArtifactWeights(folder, architecture)
