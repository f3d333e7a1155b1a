"""OpenVINO for openvino-genai: graph and weights (`openvino_model.xml`, `.bin`), tokenizer and configuration.

The weights stay quantised: see `layout`. The stream writes them; the graph only says where they lie.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgephi.bundle.manifest import TOKENIZER_FILE
from edgephi.checkpoint.architecture import Architecture, GatedSilu, MixtureOfExperts
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.checkpoint.config_keys import read_json_object
from edgephi.checkpoint.roles import ModelTensor
from edgephi.checkpoint.weights.source import Source
from edgephi.declared.target import Target
from edgephi.engines.facts.footprint import Footprint
from edgephi.engines.openvino_genai import DATA_FILE, FACTS, GRAPH_FILE
from edgephi.export.exporter import ContextLimit
from edgephi.export.openvino.expert_check import check_expert_kernels
from edgephi.export.openvino.graph import build_graph
from edgephi.export.openvino.intermediate_representation import Graph
from edgephi.export.openvino.layout import lay_out, pack
from edgephi.export.openvino.tokenizer import tokenizer_files
from edgephi.export.openvino.weights import ArtifactWeights
from edgephi.export.stream.one_pass import StreamReport, stream_tensors
from edgephi.export.stream.packed_tensor import PackedTensor, Region, align
from edgephi.quantize.tensor_plan import TensorPlans
from edgephi.steps import Step, silent

# What a plugin reads when it compiles the graph, whoever opens it. Measured on tiny random checkpoints, KL of
# the cache alone: OpenVINO's own choice, u8, costs 1e-6 to 2e-6 with weights of std 0.02 and up to 1e-3 with
# 0.1; float16 costs 3e-9 and 1e-6, float32 nothing. None of the three is faster than the others.
_MODEL_TYPE = "phi3"
_CACHE_OPTIONS = {"KV_CACHE_PRECISION": "f16"}
# Left alone, a CPU with VNNI makes the activations of matrix products int8.
_FLOAT_OPTIONS = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


def _graph(
    sources: Mapping[ModelTensor, tuple[Source, ...]],
    architecture: Architecture,
    plans: TensorPlans,
    context: int,
) -> tuple[dict[ModelTensor, PackedTensor], Graph, int]:
    tensors, end = lay_out(sources, architecture, plans)
    literals_at = align(end)
    return tensors, build_graph(architecture, tensors, context, literals_at=literals_at), literals_at


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
    """Size of the data file, known before a byte of the checkpoint is."""
    nothing = dict.fromkeys(architecture.tensor_shapes(), ())
    _, graph, literals_at = _graph(nothing, architecture, plans, context)
    return literals_at + len(graph.literals)


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
    check_expert_kernels(checkpoint.architecture, plans, step=step)
    tensors, graph, literals_at = _graph(checkpoint.sources, checkpoint.architecture, plans, context)
    literals = np.frombuffer(bytes(graph.literals), np.uint8)
    with (folder / DATA_FILE).open("wb") as file:
        report = stream_tensors(
            checkpoint.shards,
            tensors.values(),
            pack,
            file,
            changes=checkpoint.changes,
            lookup_tables=[(Region(literals_at, literals.nbytes), literals)],
            step=step,
        )
    # Rounded activations send tokens to other experts: KL 5e-2 on a tiny random model. The experts' kernel
    # never rounds them, so that little would be gained.
    has_experts = isinstance(checkpoint.architecture.feed_forward, MixtureOfExperts)
    is_float = target.kernels.accuracy_level == 0 or has_experts
    options = _CACHE_OPTIONS | (_FLOAT_OPTIONS if is_float else {})
    (folder / GRAPH_FILE).write_bytes(graph.xml({"runtime_options": options}))
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
    _write_config(checkpoint, folder / "config.json")
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
