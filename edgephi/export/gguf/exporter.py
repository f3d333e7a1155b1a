"""GGUF for llama.cpp: one file with the weights, the tokenizer and all that the loader asks for.

llama.cpp brings the graph. A file of its architecture "phi3" holds the checkpoint's own tensors under shorter
names; the fused projections stay fused. A `Q4_0` or `Q8_0` block is a float16 scale and 32 codes less the
middle one: our symmetric groups of 32, number for number. Norms and LongRoPE's factors are float32.

`general.context_length` is what llama.cpp's own tools allocate unless told otherwise, so it says how many
tokens they compute rightly: they attend past Phi-3's sliding window, and choose LongRoPE's factors by the
allocated context, not by the length of the text.

Sources: the `gguf` library (layouts, names of keys and tensors), `src/models/phi3.cpp`, `src/llama-model.cpp`
and `src/llama-context.cpp` of llama.cpp (what it reads, and what it makes of that).
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as TensorType
from numpy.typing import NDArray

from edgephi.bundle.manifest import TOKENIZER_FILE
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.checkpoint import Checkpoint
from edgephi.declared.target import Target
from edgephi.engines.facts.footprint import Footprint
from edgephi.engines.llama_cpp import CACHE_STEP, FACTS, MODEL_FILE
from edgephi.errors import NotSupportedError
from edgephi.export.exporter import ContextLimit
from edgephi.export.gguf.modelfile import MODELFILE, modelfile
from edgephi.export.gguf.tokenizer import (
    GgufTokenizer,
    add_tokenizer,
    breaks_after,
    ends,
    read_gguf_tokenizer,
    suited_name,
)
from edgephi.export.gguf.weights import GgufWeights, gguf_name
from edgephi.export.stream.one_pass import StreamReport, stream_tensors
from edgephi.export.stream.packed_tensor import PackedTensor, Region, align, place
from edgephi.export.tensor_names import tensor_name
from edgephi.quantize.groups import Groups
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlans, quantised_tensors
from edgephi.steps import Step, silent

_ARCHITECTURE = gguf.MODEL_ARCH.PHI3
_ALIGNMENT = gguf.GGUF_DEFAULT_ALIGNMENT
_TYPES = {4: TensorType.Q4_0, 8: TensorType.Q8_0}
_FILE_TYPES = {4: gguf.LlamaFileType.MOSTLY_Q4_0, 8: gguf.LlamaFileType.MOSTLY_Q8_0}
_BLOCK = 32  # weights of a block
_SCALE_BYTES = 2


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
    """Bytes of a tensor: float32 for a vector, blocks for a quantised matrix."""
    if scheme is None:
        return int(np.prod(shape)) * 4
    rows, columns = shape
    return rows * columns // _BLOCK * (_SCALE_BYTES + _BLOCK * scheme.bits // 8)


def pack(groups: Groups, scheme: Scheme) -> tuple[NDArray[np.generic], ...]:
    """A block of rows as `Q4_0` or `Q8_0`: of each group the scale, then its codes.

    `Q4_0` puts code i of the first half of a group into the low bits of byte i, and code i of the second half
    into its high bits. `Q8_0` holds code - 128 as int8.
    """
    codes = groups.codes.reshape(-1, _BLOCK)  # [groups, 32]
    if scheme.bits == 4:
        packed = codes[:, : _BLOCK // 2] | (codes[:, _BLOCK // 2 :] << np.uint8(4))  # [groups, 16]
    else:
        packed = codes ^ np.uint8(scheme.middle)  # the bits of int8(code - 128)
    blocks = np.empty((len(codes), _SCALE_BYTES + packed.shape[1]), np.uint8)
    blocks[:, :_SCALE_BYTES] = groups.scales.reshape(-1, 1).view(np.uint8)
    blocks[:, _SCALE_BYTES:] = packed
    return (blocks,)


def footprint(target: Target) -> Footprint:
    """float32 activations and a float16 cache, whatever the target's kernels."""
    return FACTS.provider(target.provider).footprint


def context_limit(architecture: Architecture) -> ContextLimit | None:  # noqa: ARG001 - true of all of them
    """None: our runtime allocates what makes llama.cpp choose the right factors, at any length."""
    return None


def check_schemes(plans: TensorPlans, target: Target) -> None:
    """Only symmetric groups of 32 are what a block holds."""
    for tensor, scheme in quantised_tensors(plans).items():
        if scheme.group_size != _BLOCK:
            raise NotSupportedError(
                f"{tensor}: expected groups of {_BLOCK} weights for GGUF, found {scheme.group_size}",
                hint=f"set group_size = {_BLOCK} under [quant] of the target {target.name}",
            )
        if not scheme.symmetric:
            # Q4_1 and Q5_1 store the smallest weight of a block, -zero_point * scale, as a float16: rounded.
            raise NotSupportedError(
                f"{tensor}: expected symmetric groups for GGUF, found zero points, which it can only round",
                hint=f"set symmetric = true under [quant] of the target {target.name}",
            )


def artifact_bytes(
    architecture: Architecture,
    plans: TensorPlans,
    target: Target,  # noqa: ARG001 - no kernel option changes the size
    context: int,  # noqa: ARG001 - nor does the context: both sets of LongRoPE's factors are always there
) -> int:
    """Bytes of the tensors. The vocabulary comes on top: 1 MB for Phi-3's, 8 MB for Phi-4-mini's."""
    shapes = architecture.tensor_shapes()
    sizes = [tensor_bytes(shape, plans[tensor].scheme) for tensor, shape in shapes.items()]
    sizes += [factors.nbytes for factors in _rope_factors(architecture).values()]
    return sum(align(size, _ALIGNMENT) for size in sizes)


def write_artifact(
    folder: Path,
    checkpoint: Checkpoint,
    plans: TensorPlans,
    target: Target,  # noqa: ARG001 - one file for every kind of processor
    context: int,
    *,
    step: Step = silent,
) -> StreamReport:
    """Write `model.gguf`, the `tokenizer.json` that our runtime reads, and a `Modelfile` for Ollama."""
    tokenizer = read_gguf_tokenizer(
        checkpoint.folder / TOKENIZER_FILE, checkpoint.architecture.vocabulary_size
    )
    layout = lay_out(folder / MODEL_FILE, checkpoint, tokenizer, plans, context)
    end = Region(layout.size, 0)  # files of the format end aligned
    with (folder / MODEL_FILE).open("wb") as file:
        report = stream_tensors(
            checkpoint.shards,
            layout.tensors,
            pack,
            file,
            preamble=layout.header,
            lookup_tables=[
                *((region, factors) for _, region, factors in layout.factors),
                (end, np.empty(0, np.uint8)),
            ],
            step=step,
        )
    shutil.copyfile(checkpoint.folder / TOKENIZER_FILE, folder / TOKENIZER_FILE)
    chat, stops = checkpoint.tokenizer.chat, ends(checkpoint.tokenizer)
    text = modelfile(
        MODEL_FILE,
        chat,
        breaks_after(tokenizer, chat),
        [tokenizer.tokens[id_] for id_ in stops],
        right_context(checkpoint.architecture, context),
    )
    (folder / MODELFILE).write_text(text, encoding="utf-8")
    return report


def right_context(architecture: Architecture, context: int) -> int:
    """How many of `context` tokens llama.cpp's own tools compute rightly: no more than a sliding window."""
    window = architecture.attention.window
    return context if window is None else min(context, window)


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
    factors = _rope_factors(architecture)
    writer = gguf.GGUFWriter(scratch, gguf.MODEL_ARCH_NAMES[_ARCHITECTURE])
    _add_facts(writer, checkpoint, tokenizer, plans, context)
    for tensor in checkpoint.sources:
        scheme, shape = plans[tensor].scheme, shapes[tensor]
        kind = TensorType.F32 if scheme is None else _TYPES[scheme.bits]
        size = tensor_bytes(shape, scheme)
        writer.add_tensor_info(gguf_name(tensor), shape, np.dtype(np.float32), size, kind)
    for name, values in factors.items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    header = scratch.read_bytes()
    header += bytes(align(len(header), _ALIGNMENT) - len(header))

    tensors, offset = [], len(header)
    for tensor, own in checkpoint.sources.items():
        plan, shape = plans[tensor], shapes[tensor]
        regions = place(offset, [tensor_bytes(shape, plan.scheme)], _ALIGNMENT)
        tensors.append(PackedTensor(tensor_name(tensor), shape, plan, regions, sources=own))
        offset = align(regions[-1].offset + regions[-1].size, _ALIGNMENT)
    placed = []
    for name, values in factors.items():
        placed.append((name, Region(offset, values.nbytes), values))
        offset = align(offset + values.nbytes, _ALIGNMENT)
    return GgufLayout(header, tuple(tensors), tuple(placed), offset)


def artifact_weights(folder: Path, architecture: Architecture) -> GgufWeights:
    """The weights of the artifact in `folder`."""
    return GgufWeights(folder / MODEL_FILE, architecture)


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
    bits = min(scheme.bits for scheme in quantised_tensors(plans).values())
    writer.add_name(suited_name(checkpoint.id.rpartition("/")[2], tokenizer))
    writer.add_file_type(_FILE_TYPES[bits])
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
    # 0: none. llama.cpp of today ignores it; older ones refuse a file without it.
    writer.add_sliding_window(window if window is not None and window < architecture.context else 0)
    add_tokenizer(writer, tokenizer, checkpoint.tokenizer, architecture)


def _rope_factors(architecture: Architecture) -> dict[str, NDArray[np.float32]]:
    """LongRoPE's factors by llama.cpp's names, [rotary size / 2] each; empty without LongRoPE."""
    long, short = architecture.attention.rotary.long_factor, architecture.attention.rotary.short_factor
    if long is None or short is None:
        return {}
    names = gguf.TENSOR_NAMES
    return {
        f"{names[gguf.MODEL_TENSOR.ROPE_FACTORS_LONG]}.weight": np.array(long, np.float32),
        f"{names[gguf.MODEL_TENSOR.ROPE_FACTORS_SHORT]}.weight": np.array(short, np.float32),
    }
