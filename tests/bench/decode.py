"""Decode speed of `edgephi.runtime`, beside a bare loop of the same engine over the same artifact.

The bare loop is what the engine's own documentation shows: text out of a prompt. Runs alternate,
so that a busy moment of the machine meets both; medians are compared.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edgephi.runtime
from edgephi.manifest import ARTIFACT_FOLDER
from edgephi.runtime.session import Options, Session
from tests.bench.measure import report

PROMPT = "Tell me all that you know about this device and what it can do."

BareLoop = Callable[[list[int], int], float]
"""Prompt and number of tokens -> tokens per second from the first generated token to the last."""


def main() -> None:
    """Measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("bundle", type=Path)
    arguments.add_argument("--tokens", type=int, default=64, help="tokens to decode in each run")
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--provider", help="another provider than the bundle's own")
    options = arguments.parse_args()
    session = edgephi.runtime.load(options.bundle, provider=options.provider)
    name = session.engine.name
    bare_loop = BARE_LOOPS[name](options.bundle / ARTIFACT_FOLDER, session)
    prompt = session.engine.encode(session.render(PROMPT))
    ours, bare = [], []
    for _ in range(options.runs):
        ours.append(_session(session, options.tokens))
        bare.append(bare_loop(prompt, options.tokens))
    ratio = statistics.median(ours) / statistics.median(bare)
    rows = [
        ("edgephi.runtime", f"{statistics.median(ours):.2f}", f"{ratio:.3f}"),
        (f"bare {name}", f"{statistics.median(bare):.2f}", "1"),
    ]
    report(("", "decode tokens/s", "ratio"), rows)


def _session(session: Session, tokens: int) -> float:
    """Tokens per second of an answer, from its first token to its last."""
    return session.generate(PROMPT, Options(max_tokens=tokens)).decode_tokens_per_second


def _rate(moments: list[float]) -> float:
    """Tokens per second of tokens that came at `moments`."""
    return (len(moments) - 1) / (moments[-1] - moments[0]) if len(moments) > 1 else 0.0


def _genai(artifact: Path, _session: Session) -> BareLoop:
    import onnxruntime_genai

    model = onnxruntime_genai.Model(str(artifact))

    def loop(prompt: list[int], tokens: int) -> float:
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(max_length=len(prompt) + tokens, do_sample=False)
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.append_tokens(prompt)
        stream = onnxruntime_genai.Tokenizer(model).create_stream()
        moments = []
        while not generator.is_done():
            generator.generate_next_token()
            stream.decode(generator.get_next_tokens()[0])
            moments.append(time.perf_counter())
        return _rate(moments)

    return loop


def _openvino(artifact: Path, _session: Session) -> BareLoop:
    import numpy as np
    import openvino
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(str(artifact), "CPU")

    def loop(prompt: list[int], tokens: int) -> float:
        moments: list[float] = []

        def streamer(_text: str) -> Any:
            moments.append(time.perf_counter())
            return openvino_genai.StreamingStatus.RUNNING

        inputs = openvino.Tensor(np.array([prompt], dtype=np.int64))
        found = pipeline.generate(inputs, openvino_genai.GenerationConfig(max_new_tokens=tokens), streamer)
        metrics = found.perf_metrics
        return float(metrics.get_throughput().mean)

    return loop


def _mlx(artifact: Path, session: Session) -> BareLoop:
    import mlx.core as mx
    import mlx_lm

    mx.set_default_device(mx.cpu if session.engine.provider == "cpu" else mx.gpu)
    model, tokenizer = mlx_lm.load(str(artifact))[:2]

    def loop(prompt: list[int], tokens: int) -> float:
        moments = [
            time.perf_counter() for _ in mlx_lm.stream_generate(model, tokenizer, prompt, max_tokens=tokens)
        ]
        return _rate(moments)

    return loop


def _llama_cpp(artifact: Path, session: Session) -> BareLoop:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(artifact / "model.gguf")
    parameters.n_ctx = session.context
    parameters.n_parallel = 1
    parameters.verbosity = -1
    server = xllamacpp.Server(parameters)

    def loop(prompt: list[int], tokens: int) -> float:
        request = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "cache_prompt": False}
        timings = server.handle_completions(request)["timings"]
        # It divides all tokens by the time after the first one.
        count = int(timings["predicted_n"])
        return float(timings["predicted_per_second"]) * (count - 1) / count

    return loop


BARE_LOOPS: dict[str, Callable[[Path, Session], BareLoop]] = {
    "onnxruntime-genai": _genai,
    "openvino-genai": _openvino,
    "mlx-lm": _mlx,
    "llama.cpp": _llama_cpp,
}
"""The bare loop of each engine, opened on an artifact."""


if __name__ == "__main__":
    main()
