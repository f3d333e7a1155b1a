"""The QNN artifact: context binaries for a Hexagon HTP, the graphs that they are made of, and what they need.

The decoder is cut into parts of whole layers, each with a graph for a chunk of the prompt and one for a
single token; both share their weights in one binary. What runs around them (embedding, mask, cache) is
described in docs/targets/qnn.md and by `qnn.json`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from edgephi.bundle.artifact import qnn_artifact
from edgephi.bundle.artifact.qnn_artifact import (
    SCHEMA,
    ArtifactSoc,
    Embedding,
    GraphFiles,
    Head,
    LogitsEncoding,
    Part,
    QnnArtifact,
    Rope,
)
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.checkpoint import Checkpoint, CheckpointWeights
from edgephi.checkpoint.conversation import conversation_renderer
from edgephi.checkpoint.roles import EMBEDDING
from edgephi.checkpoint.tokenizer import encoder
from edgephi.declared.soc import Soc, read_soc
from edgephi.declared.target import Target
from edgephi.engines.facts.footprint import Footprint
from edgephi.engines.qnn import CHUNK, FACTS, GRAPHS_FOLDER
from edgephi.errors import NotSupportedError
from edgephi.export.exporter import ContextLimit
from edgephi.export.plain_decoder import check_plain_decoder, published_name
from edgephi.export.qnn.activations import encodings, precision_of
from edgephi.export.qnn.compiler import Compiled, check_compiler, compile_graphs
from edgephi.export.qnn.graph import Sizes, head_graph, layers_graph, rope_table
from edgephi.export.qnn.layout import (
    QnnLayout,
    lay_out,
    pack,
    pack_embedding,
)
from edgephi.export.qnn.nodes import DATA_FILE, QnnModel
from edgephi.export.qnn.weights import ArtifactWeights
from edgephi.export.stream.one_pass import StreamReport, stream_tensors
from edgephi.export.stream.packed_tensor import align
from edgephi.export.stream.reads import BLOCK_WEIGHTS
from edgephi.quantize.folding import FoldedWeights
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan, TensorPlans, quantised_tensors
from edgephi.reference.activation_ranges import measure_ranges
from edgephi.reference.activations import LOGITS
from edgephi.reference.calibration_text import calibration_passages
from edgephi.steps import Step, silent

EMBEDDING_FILE = "embedding.bin"
ROPE_FILE = "rope.bin"
LARGEST_PART_BYTES = 512 << 20
"""Weights of one binary. A part this large compiles in memory that a laptop has, and is mapped on a phone."""

CALIBRATION_TOKENS = 512
"""How much of the calibration text shows the ranges of the activations."""


def footprint(target: Target) -> Footprint:
    """16-bit activations, and a cache of 16 or 8 bits, as the chip computes."""
    cache = np.dtype(precision_of(read_soc(target.soc).htp_arch).cache)
    return replace(FACTS.provider(target.provider).footprint, cache_bytes_per_number=cache.itemsize)


def check_architecture(architecture: Architecture) -> None:
    """Raise NotSupportedError for a model that the engine does not compute rightly."""
    if architecture.image_encoder is not None:
        raise NotSupportedError(
            f"{published_name(architecture)} on {FACTS.name}: expected a model of texts, found one that "
            "sees: activations are integers here, in ranges that are measured on texts and not on images",
            hint="take the target cpu, cuda, openvino, mlx or gguf, all of which see",
        )
    check_plain_decoder(architecture, FACTS.name)


def context_limit(architecture: Architecture) -> ContextLimit | None:
    """LongRoPE's original context: there is one table of angles, that of the short factors."""
    rotary = architecture.attention.rotary
    if rotary.long_factor is None:
        return None
    return ContextLimit(
        rotary.original_context,
        f"the table of angles holds LongRoPE's short factors, this model changes them at "
        f"{rotary.original_context} tokens",
    )


def check_schemes(plans: TensorPlans, target: Target) -> None:
    """Refuse zero points, which the HTP's weights have none of, and a processor that is unknown."""
    read_soc(target.soc)
    if any(not scheme.symmetric for scheme in quantised_tensors(plans).values()):
        raise NotSupportedError(
            f"{target.name}: expected symmetric = true, found false: the HTP's weights have no zero points",
            hint="set symmetric = true in the recipe",
        )


def artifact_bytes(
    architecture: Architecture,
    plans: TensorPlans,
    target: Target,  # noqa: ARG001 - the same for every processor
    context: int,
) -> int:
    """Size of all weights and tables, counted once: the graphs and the binaries hold the same."""
    layout = lay_out(dict.fromkeys(architecture.tensor_shapes(), ()), architecture, plans)
    codes, scales = _embedding_sizes(architecture, plans[EMBEDDING].quantised)
    rope = 2 * context * architecture.attention.rotary.size // 2 * 2
    return layout.size + align(codes) + scales + rope


def write_artifact(
    folder: Path,
    checkpoint: Checkpoint,
    plans: TensorPlans,
    target: Target,
    context: int,
    *,
    step: Step = silent,
) -> StreamReport:
    """Write weights in one pass, measure ranges in another, then graphs, binaries and configuration."""
    check_compiler()
    emitted = emit(folder, checkpoint, plans, target, context, step=step)
    artifact = emitted.artifact
    with step("compile for the HTP", len(artifact.parts) + 1) as done:
        compiled = _compile(folder, artifact, done)
    artifact = replace(artifact, qairt=compiled.qairt, onnxruntime_qnn=compiled.onnxruntime_qnn)
    qnn_artifact.write_artifact(artifact, folder)
    return emitted.report


@dataclass(frozen=True)
class Emitted:
    """All of an artifact but its binaries; the versions of what compiles them are not known yet."""

    report: StreamReport
    artifact: QnnArtifact


def emit(
    folder: Path,
    checkpoint: Checkpoint,
    plans: TensorPlans,
    target: Target,
    context: int,
    *,
    step: Step = silent,
) -> Emitted:
    """Write what needs no compiler: weights, graphs, embedding, angles and tokenizer."""
    soc = read_soc(target.soc)
    architecture = checkpoint.architecture
    layout = lay_out(checkpoint.sources, architecture, plans)
    (folder / GRAPHS_FOLDER).mkdir()
    with (folder / GRAPHS_FOLDER / DATA_FILE).open("wb") as file:
        zeros = np.zeros(layout.zeros.size, np.uint8)
        report = stream_tensors(
            checkpoint.shards,
            layout.tensors.values(),
            pack,
            file,
            changes=checkpoint.changes,
            lookup_tables=[(layout.zeros, zeros)],
            step=step,
        )
    weights = FoldedWeights(CheckpointWeights(checkpoint), plans)
    embedding = _write_embedding(folder / EMBEDDING_FILE, weights, plans[EMBEDDING])
    (folder / ROPE_FILE).write_bytes(rope_table(architecture, context).astype("<u2").tobytes())
    passages = _calibration_passages(checkpoint, context)
    with step("measure activations", architecture.layers) as done:
        ranges = measure_ranges(weights, passages, progress=lambda *_: done(1))
    activations = encodings(ranges, architecture, precision_of(soc.htp_arch))
    parts = _part_ranges(architecture, layout)
    norms = {
        tensor: weights.rows(tensor, 0, shape[0])
        for tensor, shape in architecture.tensor_shapes().items()
        if len(shape) == 1
    }
    _write_graphs(folder, QnnModel(architecture, layout, norms, activations), parts, context)
    checkpoint.copy_tokenizer(folder)
    artifact = QnnArtifact(
        schema=SCHEMA,
        qairt="",
        onnxruntime_qnn="",
        soc=ArtifactSoc(soc.name, soc.soc_model, soc.htp_arch, soc.chips),
        provider_options=provider_options(soc),
        context=context,
        chunk=CHUNK,
        sliding_window=architecture.attention.window,
        vocabulary=architecture.vocabulary_size,
        hidden=architecture.hidden_size,
        kv_heads=architecture.attention.kv_heads,
        head_size=architecture.attention.head_size,
        cache_type=precision_of(soc.htp_arch).cache,
        embedding=embedding,
        rope=Rope(ROPE_FILE, architecture.attention.rotary.size),
        logits=LogitsEncoding(activations[LOGITS].scale, activations[LOGITS].zero_point),
        parts=tuple(_part(number, layers) for number, layers in enumerate(parts)),
        head=Head("head.bin", _wrapper("head"), _graph("head")),
    )
    return Emitted(replace(report, data_file=f"{GRAPHS_FOLDER}/{report.data_file}"), artifact)


def provider_options(soc: Soc) -> dict[str, str]:
    """What onnxruntime's provider is told when it compiles a graph for a processor."""
    options = {
        "soc_model": str(soc.soc_model),
        "htp_arch": str(soc.htp_arch),
        # Scales of groups as whole multiples of their row's, which is what the quantiser made them.
        "enable_block_quant_weight_optimization": "1",
    }
    if precision_of(soc.htp_arch).float_residual:
        options["enable_htp_fp16_precision"] = "1"
    return options


def _calibration_passages(checkpoint: Checkpoint, context: int) -> list[tuple[int, ...]]:
    """Token ids of passages of the calibration text, at most CALIBRATION_TOKENS in all."""
    passages = calibration_passages(
        encoder(checkpoint.tokenizer.folder),
        conversation_renderer(checkpoint.tokenizer.chat),
        tokens=CALIBRATION_TOKENS,
        context=context,
    )
    return [passage.ids for passage in passages] or [(0,)]  # a tokenizer that knows no word of it


def _part_ranges(architecture: Architecture, layout: QnnLayout) -> list[range]:
    """The layers of each part: as few parts as their size allows, and all of about the same size."""
    sizes = [
        sum(
            region.size
            for tensor, packed in layout.tensors.items()
            if tensor.layer == layer
            for region in packed.regions
        )
        for layer in range(architecture.layers)
    ]
    fitting = max(1, LARGEST_PART_BYTES // max(sizes))
    count = math.ceil(architecture.layers / fitting)
    edges = [architecture.layers * part // count for part in range(count + 1)]
    return [range(first, last) for first, last in pairwise(edges)]


def _part(number: int, layers: range) -> Part:
    """What `qnn.json` says of a part."""
    prefill, decode = f"part_{number}_prefill", f"part_{number}_decode"
    return Part(
        binary=f"part_{number}.bin",
        layers=(layers.start, layers.stop),
        prefill=GraphFiles(_wrapper(prefill), _graph(prefill)),
        decode=GraphFiles(_wrapper(decode), _graph(decode)),
    )


def _graph(name: str) -> str:
    return f"{GRAPHS_FOLDER}/{name}.onnx"


def _wrapper(name: str) -> str:
    return f"{name}.onnx"


def _write_graphs(folder: Path, model: QnnModel, parts: list[range], context: int) -> None:
    graphs = {"head": head_graph(model)}
    for number, layers in enumerate(parts):
        for kind, tokens in (("prefill", CHUNK), ("decode", 1)):
            name = f"part_{number}_{kind}"
            graphs[name] = layers_graph(model, layers, Sizes(tokens, context), name=name)
    for name, graph in graphs.items():
        (folder / _graph(name)).write_bytes(graph.SerializeToString(deterministic=True))


def _compile(folder: Path, artifact: QnnArtifact, done: Callable[[int], None]) -> Compiled:
    """Compile all graphs of an artifact; who compiled. `done` counts the binaries."""

    def one(binary: str, graphs: list[GraphFiles]) -> Compiled:
        compiled = compile_graphs(folder, graphs, binary, artifact.provider_options, where=artifact.soc.name)
        done(1)
        return compiled

    for part in artifact.parts:
        one(part.binary, [part.prefill, part.decode])
    head = artifact.head
    return one(head.binary, [GraphFiles(head.wrapper, head.graph)])


def _embedding_sizes(architecture: Architecture, scheme: Scheme) -> tuple[int, int]:
    """Bytes of the embedding's codes and of its float16 scales."""
    rows, columns = architecture.vocabulary_size, architecture.hidden_size
    return rows * columns * scheme.bits // 8, rows * columns // scheme.group_size * 2


def _write_embedding(file: Path, weights: FoldedWeights, plan: TensorPlan) -> Embedding:
    """Quantise the embedding with the codes of the other engines; returns what `qnn.json` says of it."""
    architecture = weights.architecture
    rows, scheme = architecture.vocabulary_size, plan.quantised
    codes_size, _ = _embedding_sizes(architecture, scheme)
    quantizer = Quantizer()
    step = max(1, BLOCK_WEIGHTS // architecture.hidden_size)
    scales_at = align(codes_size)
    scales = []
    with file.open("wb") as out:
        for start in range(0, rows, step):
            groups = quantizer.quantize(weights.rows(EMBEDDING, start, min(start + step, rows)), plan)
            codes, block_scales = pack_embedding(groups, scheme)
            out.write(np.ascontiguousarray(codes).data)
            scales.append(block_scales)
        out.write(bytes(scales_at - codes_size))
        for block_scales in scales:
            out.write(np.ascontiguousarray(block_scales).data)
    bits: Literal[4, 8] = 8 if scheme.bits == 8 else 4
    return Embedding(EMBEDDING_FILE, bits, scheme.group_size, codes_offset=0, scales_offset=scales_at)


def artifact_weights(folder: Path, architecture: Architecture) -> ArtifactWeights:
    """The weights of the artifact in `folder`."""
    return ArtifactWeights(folder, architecture)
