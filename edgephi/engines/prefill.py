"""How much of a prompt each engine computes at once: the runner does it so, and a plan counts its memory.

A call into an engine is seen to its end, Ctrl-C included, and its memory grows with its tokens; too few of
them keep no processor busy.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prefill:
    """`tokens` of a prompt are computed in one call.

    An engine that is not `told_factors` finds out by the last position of a call which of LongRoPE's factors
    hold, so the first call for a long sequence must reach that far.
    """

    tokens: int
    told_factors: bool = True


# On a CPU 2 to 512 tokens at once gave the same logits, bit for bit, and 16 or more the same speed. Those of
# every token are computed and kept: 525 MB for a whole 4k prompt of a small model.
_GENAI, _GENAI_ON_GPU = Prefill(32, told_factors=False), Prefill(512, told_factors=False)
_PREFILLS = {
    ("onnxruntime-genai", "cpu"): _GENAI,
    ("onnxruntime-genai", "cuda"): _GENAI_ON_GPU,
    # On a CPU 64 take 3 % longer than 512, and 32 take 20 %.
    ("llama.cpp", "cpu"): Prefill(64),
    # MLX's CPU kernels gain nothing from more rows at once.
    ("mlx-lm", "cpu"): Prefill(16),
    # On a CPU 64 take a fifth longer, 512 are no faster.
    ("openvino-genai", "cpu"): Prefill(256),
    ("openvino-genai", "gpu"): Prefill(256),
    ("openvino-genai", "npu"): Prefill(256),
}
_ON_GPU = Prefill(512)


def prefill(engine: str, provider: str) -> Prefill:
    """How an engine reads a prompt on a provider. QNN's graphs say it themselves."""
    return _PREFILLS.get((engine, provider), _ON_GPU)
