"""llama.cpp: its own kernels, called in xllamacpp's library, and the mixtures of its `llama-quantize`.

Blocks of 256 do not divide every model's columns. There llama.cpp falls back to larger types, and so do the
rows without a word; *padded* ones fill the columns with zeros, to see what the type does on models that it
fits. Bits are those of the real columns.

Source of the mixtures: src/llama-quant.cpp of llama.cpp, for the architecture phi3, which has query, key and
value in one matrix. Until 2025 Q4_K_M gave it Q5_K in every layer ("uniform"), now Q6_K in half of them.
"""

import ctypes
import functools
import time
from pathlib import Path

import numpy as np
import xllamacpp
from gguf import GGML_QUANT_SIZES, dequantize
from gguf import GGMLQuantizationType as Kind

from tests.bench.quality.harness import EMBEDDING, HEAD, Arrays, Floats
from tests.bench.quality.quantised import Quantised, Subject, Way, layer_of, more_bits, with_vocabulary

_FALLBACKS = {
    Kind.Q4_K: Kind.Q5_0,
    Kind.Q5_K: Kind.Q5_1,
    Kind.Q6_K: Kind.Q8_0,
    Kind.IQ4_XS: Kind.IQ4_NL,
}
_MIXTURES = {"Q4_K_S": Kind.Q4_K, "Q4_K_M": Kind.Q4_K}


def ways() -> list[Way]:
    """All types, without and with an importance matrix, as they fall back and padded."""
    found = []
    for mixture in ("Q4_0", "Q4_1", "IQ4_NL", "IQ4_XS", "Q4_K_S", "Q4_K_M"):
        for padded in (False, True) if _base(mixture) in _FALLBACKS else (False,):
            for important in (False, True):
                words = [mixture, *(["+ imatrix"] if important else []), *(["padded"] if padded else [])]
                quantise = functools.partial(
                    _quantise, mixture=mixture, important=important, padded=padded, uniform=False
                )
                found.append(Way(" ".join(["llama.cpp", *words]), quantise, "xllamacpp"))
    quantise = functools.partial(_quantise, mixture="Q4_K_M", important=True, padded=True, uniform=True)
    return [*found, Way("llama.cpp Q4_K_M + imatrix padded uniform", quantise, "xllamacpp")]


def _quantise(subject: Subject, mixture: str, *, important: bool, padded: bool, uniform: bool) -> Quantised:
    start = time.perf_counter()
    importance = subject.inputs if important else {}
    weights: dict[str, Floats] = dict(subject.original)
    bits = {}
    for name in subject.matrices:
        kind = _kind(name, mixture, subject.layers, important=important, uniform=uniform)
        weights[name], bits[name] = _dequantised(
            subject.original[name], kind, importance.get(name), padded=padded
        )
    names = [EMBEDDING] if subject.harness.tied else [EMBEDDING, HEAD]
    for name in names:
        # Only the matrix that makes the logits gets more bits. An importance matrix is not made for it.
        kind = Kind.Q6_K if subject.harness.tied or name == HEAD else _base(mixture)
        weights[name], bits[name] = _dequantised(subject.original[name], kind, None, padded=padded)
    whole: Arrays = with_vocabulary(weights, weights[EMBEDDING]) if subject.harness.tied else weights
    return Quantised(whole, *subject.bits(bits), time.perf_counter() - start)


def _base(mixture: str) -> Kind:
    return _MIXTURES.get(mixture) or Kind[mixture]


def _kind(name: str, mixture: str, layers: int, *, important: bool, uniform: bool) -> Kind:
    """The type of a layer's matrix in a mixture, before it falls back."""
    layer = layer_of(name)
    first = layer < layers // 8
    if "qkv_proj" in name:
        if mixture == "Q4_K_M" and uniform:
            return Kind.Q5_K
        if mixture == "Q4_K_M" and more_bits(layer, layers):
            return Kind.Q6_K
        if mixture == "Q4_K_S" and layer < 4:
            return Kind.Q5_K
    if "down_proj" in name:
        if mixture == "Q4_K_M" and more_bits(layer, layers):
            return Kind.Q6_K
        if mixture == "Q4_K_S" and first:
            return Kind.Q5_K
        if mixture in ("IQ4_NL", "IQ4_XS") and first and not important:
            return Kind.Q5_K
        if mixture == "Q4_0" and first and important:
            return Kind.Q4_1
    return _base(mixture)


def _dequantised(
    weights: Floats, kind: Kind, importance: Floats | None, *, padded: bool
) -> tuple[Floats, float]:
    """What is left of a matrix in a type, or in the one that it falls back to, and that type's bits."""
    rows, columns = weights.shape
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if columns % block and not padded:
        kind = _FALLBACKS[kind]
        block, block_bytes = GGML_QUANT_SIZES[kind]
    missing = -columns % block
    source = np.ascontiguousarray(np.pad(weights, ((0, 0), (0, missing))))
    if importance is not None:
        importance = np.pad(importance, (0, missing), constant_values=float(importance.min()))
    stored = np.zeros((rows, source.shape[1] // block * block_bytes), np.uint8)
    library = _library()
    library.ggml_quantize_init(kind.value)
    written = library.ggml_quantize_chunk(
        kind.value,
        source.ctypes.data,
        stored.ctypes.data,
        0,
        rows,
        source.shape[1],
        None if importance is None else np.ascontiguousarray(importance).ctypes.data,
    )
    if written != stored.nbytes:
        raise RuntimeError(f"{kind.name}: expected {stored.nbytes} bytes, llama.cpp wrote {written}")
    restored = dequantize(stored, kind).reshape(rows, -1)[:, :columns]
    return np.ascontiguousarray(restored, np.float32), 8 * block_bytes / block


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(Path(xllamacpp.__file__).with_name("xllamacpp.abi3.so")))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    return library
