"""The ONNX artifact for onnxruntime-genai: graph, external data, configuration and tokenizer.

One exporter serves two kinds of processors. For the CPU everything that is no code is float32, for CUDA it is
float16; `Kernels.activations` of a target says which. The codes and the values of the scales are the same.
"""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from edgephi.checkpoint.architecture import Architecture, MixtureOfExperts
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.checkpoint.roles import EMBEDDING, ModelTensor, Role
from edgephi.declared.target import Target
from edgephi.engines.facts.footprint import Footprint
from edgephi.engines.onnxruntime_genai import (
    CONFIG_FILE,
    DATA_FILE,
    EMBEDDING_GRAPH_FILE,
    FACTS,
    GRAPH_FILE,
    ROWS_GRAPH_FILE,
)
from edgephi.errors import NotSupportedError
from edgephi.export.exporter import ContextLimit
from edgephi.export.onnx.configuration import genai_config, long_type
from edgephi.export.onnx.graph import build_graph
from edgephi.export.onnx.images.embedding import embedding_graph
from edgephi.export.onnx.layout import OnnxLayout, data_bytes, float_type, lay_out, packer
from edgephi.export.onnx.weights import ArtifactWeights
from edgephi.export.plain_decoder import published_name
from edgephi.export.stream.one_pass import StreamReport, stream_tensors
from edgephi.quantize.tensor_plan import TensorPlans
from edgephi.steps import Step, silent

_HEAD_STEP = 16
"""What its attention takes of heads (onnxruntime's `group_query_attention_helper.h`)."""

_CUDA_EXPERT_COLUMNS = 64
"""CUDA's kernel reads the columns of experts so many at once (onnxruntime's moe_quantization.cc)."""


def footprint(target: Target) -> Footprint:
    """Activations and cache in the type of the target's kernels."""
    size = np.dtype(float_type(target.kernels)).itemsize
    facts = FACTS.provider(target.provider).footprint
    return replace(facts, cache_bytes_per_number=size, activation_bytes=size)


def check_architecture(architecture: Architecture) -> None:
    """Raise NotSupportedError for heads that the attention operators do not take; all else is computed."""
    attention = architecture.attention
    size, rotated = attention.head_size, attention.rotary.size
    if size % _HEAD_STEP or rotated % _HEAD_STEP:
        found = f"{size} numbers" + (f", {rotated} of them rotated" if rotated != size else "")
        raise NotSupportedError(
            f"{published_name(architecture)} on {FACTS.name}: expected heads, and what is rotated of them, "
            f"of a multiple of {_HEAD_STEP} numbers, found {found}",
            hint="take the target openvino",
        )


def context_limit(architecture: Architecture) -> ContextLimit | None:
    """LongRoPE's original context, when the engine does not know that its factors change there."""
    rotary = architecture.attention.rotary
    switches_at = long_type(architecture).switches_at
    # A model that sees is run as a plain decoder, which is told by edgephi how long a text will be.
    sees = architecture.image_encoder is not None
    if rotary.long_factor is None or rotary.original_context == switches_at or sees:
        return None
    return ContextLimit(
        rotary.original_context,
        f"the engine changes LongRoPE's factors at {switches_at} tokens, "
        f"this model at {rotary.original_context}",
    )


def check_schemes(plans: TensorPlans, target: Target) -> None:
    """One operator computes the experts of a layer, so both of their stacks have one scheme."""
    for tensor, plan in plans.items():
        if tensor.role is not Role.EXPERTS_GATE_UP:
            continue
        other = ModelTensor(Role.EXPERTS_DOWN, tensor.layer)
        own, others = plan.quantised, plans[other].quantised
        if (own.bits, own.group_size) != (others.bits, others.group_size):
            raise NotSupportedError(
                f"{target.name}: expected {tensor} and {other} with the same bits and groups, found "
                f"{own.bits} and {others.bits} bits in groups of {own.group_size} and {others.group_size}",
                hint="the engine computes a layer's experts in one operator: keep both or none at more bits",
            )


def artifact_bytes(
    architecture: Architecture,
    plans: TensorPlans,
    target: Target,
    context: int,
) -> int:
    """Size of the data file, known before a byte of the checkpoint is.

    Raises NotSupportedError when CUDA's kernels would read an embedding's zero points wrongly, or do not take
    the experts.
    """
    experts = architecture.feed_forward
    if target.provider == "cuda" and isinstance(experts, MixtureOfExperts):
        sizes = (architecture.hidden_size, experts.width)
        if any(size % _CUDA_EXPERT_COLUMNS for size in sizes):
            raise NotSupportedError(
                f"{target.name}: expected experts whose matrices have multiples of {_CUDA_EXPERT_COLUMNS} "
                f"columns, found {sizes[0]} and {sizes[1]}",
                hint="the target cpu takes them",
            )
    scheme = plans[EMBEDDING].scheme
    if target.provider == "cuda" and scheme is not None and not scheme.symmetric and scheme.bits == 4:
        groups = architecture.hidden_size // scheme.group_size
        if groups % 2:
            raise NotSupportedError(
                f"{target.name}: expected an even number of groups in a row of an asymmetric embedding, "
                f"found {groups}",
                hint="CUDA's kernel misreads the others: use smaller groups, 8 bits or symmetric = true",
            )
    return data_bytes(architecture, plans, target.kernels, context)


def write_artifact(
    folder: Path,
    checkpoint: Checkpoint,
    plans: TensorPlans,
    target: Target,
    context: int,
    *,
    step: Step = silent,
) -> StreamReport:
    """Write graph, data, configuration and tokenizer into `folder`, in one pass over the weights."""
    architecture = checkpoint.architecture
    layout = lay_out(checkpoint.sources, architecture, plans, target.kernels, context)
    with (folder / DATA_FILE).open("wb") as file:
        report = stream_tensors(
            checkpoint.shards,
            layout.tensors.values(),
            packer(target.kernels),
            file,
            changes=checkpoint.changes,
            lookup_tables=[(region, table) for _, region, table in layout.tables],
            step=step,
        )
    for name, model in _graphs(architecture, layout, context, target.kernels.accuracy_level).items():
        (folder / name).write_bytes(model.SerializeToString(deterministic=True))
    config = genai_config(
        architecture,
        checkpoint.tokenizer.stop_token_ids,
        context,
        graph_file=GRAPH_FILE,
        provider=target.provider,
    )
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    checkpoint.copy_tokenizer(folder)
    return report


def _graphs(
    architecture: Architecture, layout: OnnxLayout, context: int, accuracy_level: int
) -> dict[str, onnx.ModelProto]:
    """The decoder's graphs by their files: of a model that sees one for edgephi, two for the engine's own."""
    if architecture.image_encoder is None:
        return {GRAPH_FILE: build_graph(architecture, layout, context, accuracy_level)}
    built = partial(build_graph, architecture, layout, context, accuracy_level)
    return {
        ROWS_GRAPH_FILE: built(reads="ids and image rows"),
        GRAPH_FILE: built(reads="embeddings"),
        EMBEDDING_GRAPH_FILE: embedding_graph(architecture, layout),
    }


def artifact_weights(folder: Path, architecture: Architecture) -> ArtifactWeights:
    """The weights of the artifact in `folder`."""
    return ArtifactWeights(folder, architecture)
