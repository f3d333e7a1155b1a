"""OpenVINO for openvino-genai: graph and weights (`openvino_model.xml`, `.bin`), tokenizer and configuration.

The weights stay quantised: see `layout`. The stream writes them; the graph only says where they lie.

Of a model that sees there are two models instead, the embeddings of tokens and all that comes after them, so
that what an image encoder makes of an image may come in between. `image_encoder` writes the other two.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgephi.bundle.manifest import TOKENIZER_FILE
from edgephi.checkpoint.architecture import Architecture, GatedSilu, MixtureOfExperts
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.checkpoint.config_keys import read_json_object
from edgephi.checkpoint.roles import EMBEDDING, ModelTensor
from edgephi.checkpoint.weights.source import Source
from edgephi.declared.target import Target
from edgephi.engines.facts.footprint import Footprint
from edgephi.engines.openvino_genai import (
    CONFIG_FILE,
    FACTS,
    GRAPH_FILE,
    LANGUAGE_GRAPH_FILE,
    TEXT_EMBEDDINGS_GRAPH_FILE,
)
from edgephi.export.exporter import ContextLimit
from edgephi.export.openvino.expert_check import check_expert_kernels
from edgephi.export.openvino.graph import build_embeddings_graph, build_graph
from edgephi.export.openvino.intermediate_representation import Graph
from edgephi.export.openvino.layout import lay_out
from edgephi.export.openvino.model_file import ModelFile, Tensors, model_file
from edgephi.export.openvino.tokenizer import tokenizer_files
from edgephi.export.openvino.weights import ArtifactWeights
from edgephi.export.stream.one_pass import StreamReport
from edgephi.quantize.tensor_plan import TensorPlans
from edgephi.steps import Step, silent

# What a plugin reads when it compiles the graph, whoever opens it. Measured on tiny random checkpoints, KL of
# the cache alone: OpenVINO's own choice, u8, costs 1e-6 to 2e-6 with weights of std 0.02 and up to 1e-3 with
# 0.1; float16 costs 3e-9 and 1e-6, float32 nothing. None of the three is faster than the others.
_MODEL_TYPE = "phi3"
_CACHE_OPTIONS = {"KV_CACHE_PRECISION": "f16"}
# Left alone, a CPU with VNNI makes the activations of matrix products int8.
FLOAT_OPTIONS = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


def _models(
    sources: Mapping[ModelTensor, tuple[Source, ...]],
    architecture: Architecture,
    plans: TensorPlans,
    context: int,
) -> tuple[ModelFile, ...]:
    """The models of an artifact, the largest first."""

    def decoder(tensors: Tensors, literals_at: int) -> Graph:
        return build_graph(architecture, tensors, context, literals_at=literals_at)

    def embeddings(tensors: Tensors, literals_at: int) -> Graph:
        return build_embeddings_graph(tensors, literals_at=literals_at)

    if architecture.image_encoder is None:
        return (model_file(GRAPH_FILE, *lay_out(sources, architecture, plans), decoder),)
    embedding = {EMBEDDING: sources[EMBEDDING]}
    rest = dict(sources)
    if not architecture.tied_embeddings:
        del rest[EMBEDDING]
    return (
        model_file(LANGUAGE_GRAPH_FILE, *lay_out(rest, architecture, plans), decoder),
        model_file(TEXT_EMBEDDINGS_GRAPH_FILE, *lay_out(embedding, architecture, plans), embeddings),
    )


def footprint(target: Target) -> Footprint:
    """float32 activations and a float16 cache, whatever the target's kernels."""
    return FACTS.provider(target.provider).footprint


def check_architecture(architecture: Architecture) -> None:
    """All are computed rightly."""


def context_limit(architecture: Architecture) -> ContextLimit | None:  # noqa: ARG001
    """None: the graph knows LongRoPE's two lengths, and our adapter prefills again between them."""
    return None


def check_schemes(plans: TensorPlans, target: Target) -> None:
    """The graph takes every scheme that there is."""


def artifact_bytes(
    architecture: Architecture,
    plans: TensorPlans,
    target: Target,  # noqa: ARG001 - no kernel option changes the size
    context: int,
) -> int:
    """Size of the data files, known before a byte of the checkpoint is."""
    nothing = dict.fromkeys(architecture.tensor_shapes(), ())
    return sum(model.size for model in _models(nothing, architecture, plans, context))


def write_artifact(
    folder: Path,
    checkpoint: Checkpoint,
    plans: TensorPlans,
    target: Target,
    context: int,
    *,
    step: Step = silent,
) -> StreamReport:
    """Write graph, data and configuration of `checkpoint` into `folder`, in one pass over the weights."""
    architecture = checkpoint.architecture
    check_expert_kernels(architecture, plans, step=step)
    # Rounded activations send tokens to other experts: KL 5e-2 on a tiny random model. The experts' kernel
    # never rounds them, so that little would be gained.
    has_experts = isinstance(architecture.feed_forward, MixtureOfExperts)
    is_float = target.kernels.accuracy_level == 0 or has_experts
    options = _CACHE_OPTIONS | (FLOAT_OPTIONS if is_float else {})
    largest, *others = _models(checkpoint.sources, architecture, plans, context)
    report = largest.write(folder, checkpoint, options, step=step)
    for other in others:
        errors = other.write(folder, checkpoint, options, step=step, hashed=False).errors
        report = replace(report, errors=(*report.errors, *errors))
    _write_configuration(folder, checkpoint, context)
    return report


def _write_configuration(folder: Path, checkpoint: Checkpoint, context: int) -> None:
    """Tokenizer, chat template and stop tokens, as openvino-genai reads them."""
    architecture, tokenizer = checkpoint.architecture, checkpoint.tokenizer
    stops = tokenizer.stop_token_ids
    pad = architecture.pad_token_id if architecture.pad_token_id is not None else stops[0]
    files = tokenizer_files(
        checkpoint.tokenizer.folder / TOKENIZER_FILE,
        chat_template=tokenizer.chat.template,
        pad_token_id=pad,
        stop_token_ids=stops,
        bos_token_id=architecture.bos_token_id,
    )
    for name, content in files.items():
        (folder / name).write_bytes(content)
    checkpoint.copy_tokenizer(folder)
    # The engine prefers this one to what the tokenizer's own configuration says.
    (folder / "chat_template.jinja").write_text(tokenizer.chat.template)
    if architecture.image_encoder is None:  # else that has its own part in it
        _write_config(checkpoint, folder / CONFIG_FILE)
    generation = {
        "bos_token_id": architecture.bos_token_id,
        "do_sample": False,
        "eos_token_id": list(stops),
        "max_length": context,
        "pad_token_id": pad,
    }
    text = json.dumps({key: value for key, value in generation.items() if value is not None}, indent=2)
    (folder / "generation_config.json").write_text(text + "\n")


def artifact_weights(folder: Path, architecture: Architecture) -> ArtifactWeights:
    """The weights of the artifact in `folder`."""
    return ArtifactWeights(folder, architecture)


def _write_config(checkpoint: Checkpoint, file: Path) -> None:
    """The checkpoint's own `config.json`; a Llama's, or a Mistral's, says what the fused model is."""
    source = checkpoint.folder / "config.json"
    content = read_json_object(source, where=str(source))
    may_be_apart = isinstance(checkpoint.architecture.feed_forward, GatedSilu)
    if content.get("model_type") == _MODEL_TYPE or not may_be_apart:
        shutil.copyfile(source, file)
        return
    fused = {**content, "model_type": _MODEL_TYPE, "architectures": ["Phi3ForCausalLM"]}
    file.write_text(json.dumps(fused, indent=2) + "\n", encoding="utf-8")
