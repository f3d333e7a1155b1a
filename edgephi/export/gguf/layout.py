"""Where every tensor lies in a GGUF file, and the header before them."""

import math
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as TensorType
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Architecture, MixtureOfExperts
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.engines.llama_cpp import CACHE_STEP
from edgephi.export.gguf.blocks import TYPES, block_bytes
from edgephi.export.gguf.parts import parts_of
from edgephi.export.gguf.tokenizer import GgufTokenizer, add_tokenizer, suited_name
from edgephi.export.stream.packed_tensor import PackedTensor, Region, align, place
from edgephi.export.tensor_names import tensor_name
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlans, quantised_tensors

ALIGNMENT = gguf.GGUF_DEFAULT_ALIGNMENT
FILE_TYPES = {
    TensorType.Q4_0: gguf.LlamaFileType.MOSTLY_Q4_0,
    TensorType.Q4_1: gguf.LlamaFileType.MOSTLY_Q4_1,
    TensorType.Q5_0: gguf.LlamaFileType.MOSTLY_Q5_0,
    TensorType.Q5_1: gguf.LlamaFileType.MOSTLY_Q5_1,
    TensorType.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
}
"""What a file is called whose layers are all of one type."""


@dataclass(frozen=True)
class GgufLayout:
    """Where every tensor lies in the file, and the factors of LongRoPE: name, region, float32 array.

    `header` is all that comes before the first of them, padding included; `size` that of the file.
    """

    header: bytes
    tensors: tuple[PackedTensor, ...]
    factors: tuple[tuple[str, Region, NDArray[np.float32]], ...]
    size: int


def tensor_bytes(shape: tuple[int, ...], scheme: Scheme | None) -> int:
    """Bytes of a tensor: float32 for plain numbers, blocks for a quantised matrix."""
    if scheme is None:
        return math.prod(shape) * 4
    weights, size = block_bytes(scheme)
    return math.prod(shape) // weights * size


def lay_out(
    scratch: Path,
    checkpoint: Checkpoint,
    tokenizer: GgufTokenizer,
    plans: TensorPlans,
    context: int,
) -> GgufLayout:
    """Give every tensor its place, in the order of the checkpoint so that one pass suffices.

    The `gguf` library writes the header into the file `scratch`.
    """
    architecture = checkpoint.architecture
    shapes = architecture.tensor_shapes()
    factors = rope_factors(architecture)
    writer = gguf.GGUFWriter(scratch, architecture_name(architecture))
    _add_facts(writer, checkpoint, tokenizer, plans, context)
    parts = {tensor: parts_of(tensor, shapes[tensor], architecture) for tensor in checkpoint.sources}
    for tensor, own in parts.items():
        scheme = plans[tensor].scheme
        kind = TensorType.F32 if scheme is None else TYPES[scheme]
        for name, shape in own.shapes.items():
            size = tensor_bytes(shape, scheme)
            if len(own.shapes) > 1 and size % ALIGNMENT:
                raise ValueError(f"{name}: expected a multiple of {ALIGNMENT} bytes, found {size}")
            writer.add_tensor_info(name, shape, np.dtype(np.float32), size, kind)
    for name, values in factors.items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    header = scratch.read_bytes()
    header += bytes(align(len(header), ALIGNMENT) - len(header))

    tensors, offset = [], len(header)
    for tensor, sources in checkpoint.sources.items():
        plan, shape = plans[tensor], shapes[tensor]
        regions = place(offset, [tensor_bytes(shape, plan.scheme)], ALIGNMENT)
        rows = parts[tensor].in_file_order(sources, plan)
        tensors.append(PackedTensor(tensor_name(tensor), shape, plan, regions, sources=rows))
        offset = align(regions[-1].offset + regions[-1].size, ALIGNMENT)
    placed = []
    for name, values in factors.items():
        placed.append((name, Region(offset, values.nbytes), values))
        offset = align(offset + values.nbytes, ALIGNMENT)
    return GgufLayout(header, tuple(tensors), tuple(placed), offset)


def architecture_name(architecture: Architecture) -> str:
    """What llama.cpp calls the graph that it computes the model with."""
    has_experts = isinstance(architecture.feed_forward, MixtureOfExperts)
    name: str = gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.PHIMOE if has_experts else gguf.MODEL_ARCH.PHI3]
    return name


def right_context(architecture: Architecture, context: int) -> int:
    """How many of `context` tokens llama.cpp's own tools compute rightly: no more than a sliding window."""
    window = architecture.attention.window
    return context if window is None else min(context, window)


def _add_facts(
    writer: gguf.GGUFWriter,
    checkpoint: Checkpoint,
    tokenizer: GgufTokenizer,
    plans: TensorPlans,
    context: int,
) -> None:
    """All of the header but the tensors."""
    architecture = checkpoint.architecture
    rotary, window = architecture.attention.rotary, architecture.attention.window
    writer.add_name(suited_name(checkpoint.id.rpartition("/")[2], tokenizer))
    writer.add_file_type(_file_type(plans))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(architecture.vocabulary_size)
    writer.add_context_length(right_context(architecture, context))
    writer.add_embedding_length(architecture.hidden_size)
    writer.add_feed_forward_length(architecture.feed_forward.width)
    writer.add_block_count(architecture.layers)
    writer.add_head_count(architecture.attention.heads)
    writer.add_head_count_kv(architecture.attention.kv_heads)
    writer.add_layer_norm_rms_eps(architecture.norm.epsilon)
    writer.add_rope_dimension_count(rotary.size)
    writer.add_rope_freq_base(rotary.theta)
    # llama.cpp takes the long factors when the allocated context is more than this, and has no other use for
    # it. It allocates in steps, so a context for the short factors may have to be a little longer than them.
    writer.add_rope_scaling_orig_ctx_len(align(rotary.original_context, CACHE_STEP))
    if rotary.long_factor is not None:
        writer.add_rope_scaling_attn_factors(rotary.magnitude)
    if isinstance(architecture.feed_forward, MixtureOfExperts):
        writer.add_expert_count(architecture.feed_forward.experts)
        writer.add_expert_used_count(architecture.feed_forward.chosen)
    # 0: none. llama.cpp of today ignores it; older ones refuse a file without it.
    writer.add_sliding_window(window if window is not None and window < architecture.context else 0)
    add_tokenizer(writer, tokenizer, checkpoint.tokenizer, architecture)


def _file_type(plans: TensorPlans) -> gguf.LlamaFileType:
    """What tools say of the whole file: the mixture of K-quants, or the type of a layer's matrices."""
    schemes = [scheme for tensor, scheme in quantised_tensors(plans).items() if tensor.layer is not None]
    kinds = {TYPES[scheme] for scheme in schemes}
    if any(scheme.scales == "superblocks" for scheme in schemes) or len(kinds) > 1:
        return gguf.LlamaFileType.MOSTLY_Q4_K_M  # whatever stands in for them in short rows
    return FILE_TYPES[kinds.pop()]


def rope_factors(architecture: Architecture) -> dict[str, NDArray[np.float32]]:
    """LongRoPE's factors by llama.cpp's names, [rotary size / 2] each; empty without LongRoPE."""
    long, short = architecture.attention.rotary.long_factor, architecture.attention.rotary.short_factor
    if long is None or short is None:
        return {}
    names = gguf.TENSOR_NAMES
    return {
        f"{names[gguf.MODEL_TENSOR.ROPE_FACTORS_LONG]}.weight": np.array(long, np.float32),
        f"{names[gguf.MODEL_TENSOR.ROPE_FACTORS_SHORT]}.weight": np.array(short, np.float32),
    }
