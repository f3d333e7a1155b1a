"""One process of `tests.bench.decode`: the bare loop of an engine, as its own documentation shows it.

`python -m tests.bench.engine_loop ARTIFACT` reads a `Side` from its input, does with the engine alone what
that side did, under the same settings, and prints its own. Nothing of edgephi.runtime is imported.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.measure import high_water_mark

BareLoop = Callable[[list[int], int], tuple[float, int]]
"""Prompt and number of tokens -> tokens per second from the first to the last one generated, and how many."""


@dataclass(frozen=True)
class Side:
    """What one process measured: a speed (tokens per second) for each time that it answered `prompt`.

    `settings` are in the words of the engine's own interface. `tokens` is how many each answer has,
    `peak_bytes` the largest resident set of the process.
    """

    engine: str
    prompt: list[int]
    settings: dict[str, Any]
    speeds: list[float]
    tokens: int
    peak_bytes: int


def main() -> None:
    """Generate, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("artifact", type=Path)
    arguments.add_argument("--tokens", type=int, required=True)
    arguments.add_argument("--repeats", type=int, required=True)
    options = arguments.parse_args()
    ours = Side(**json.load(sys.stdin))
    loop = BARE_LOOPS[ours.engine](options.artifact, ours.settings)
    answers = [loop(ours.prompt, options.tokens) for _ in range(options.repeats)]
    side = dataclasses.replace(
        ours,
        speeds=[speed for speed, _ in answers],
        tokens=min(tokens for _, tokens in answers),
        peak_bytes=high_water_mark(os.getpid()),
    )
    print(json.dumps(dataclasses.asdict(side)))


def _rate(moments: list[float]) -> tuple[float, int]:
    """Tokens per second of tokens that came at `moments`, in seconds, and their number."""
    count = len(moments)
    return ((count - 1) / (moments[-1] - moments[0]) if count > 1 else 0.0), count


def _genai(artifact: Path, settings: dict[str, Any]) -> BareLoop:
    import onnxruntime_genai

    config = onnxruntime_genai.Config(str(artifact))
    config.clear_providers()
    if settings["provider"] != "cpu":
        config.append_provider(settings["provider"])
    model = onnxruntime_genai.Model(config)
    tokenizer = onnxruntime_genai.Tokenizer(model)

    def loop(prompt: list[int], tokens: int) -> tuple[float, int]:
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(max_length=settings["max_length"], do_sample=False)
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.append_tokens(prompt)
        stream = tokenizer.create_stream()
        moments: list[float] = []
        while not generator.is_done() and len(moments) < tokens:
            generator.generate_next_token()
            stream.decode(generator.get_next_tokens()[0])
            moments.append(time.perf_counter())
        return _rate(moments)

    return loop


def _openvino(artifact: Path, settings: dict[str, Any]) -> BareLoop:
    import numpy as np
    import openvino
    import openvino_genai

    properties = {name: value for name, value in settings.items() if name != "device"}
    pipeline = openvino_genai.LLMPipeline(str(artifact), settings["device"], **properties)

    def loop(prompt: list[int], tokens: int) -> tuple[float, int]:
        def streamer(_text: str) -> Any:
            return openvino_genai.StreamingStatus.RUNNING

        inputs = openvino.Tensor(np.array([prompt], dtype=np.int64))
        found = pipeline.generate(inputs, openvino_genai.GenerationConfig(max_new_tokens=tokens), streamer)
        # Milliseconds. The text reaches the streamer in words, not in tokens.
        return _rate([moment / 1e3 for moment in found.perf_metrics.raw_metrics.m_new_token_times])

    return loop


def _mlx(artifact: Path, settings: dict[str, Any]) -> BareLoop:
    import mlx.core as mx
    import mlx_lm

    mx.set_default_device(mx.cpu if settings["device"] == "cpu" else mx.gpu)
    model, tokenizer = mlx_lm.load(str(artifact))[:2]
    model.set_dtype(getattr(mx, settings["dtype"]))

    def loop(prompt: list[int], tokens: int) -> tuple[float, int]:
        moments = [
            time.perf_counter() for _ in mlx_lm.stream_generate(model, tokenizer, prompt, max_tokens=tokens)
        ]
        return _rate(moments)

    return loop


def _llama_cpp(artifact: Path, settings: dict[str, Any]) -> BareLoop:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(artifact / "model.gguf")
    parameters.n_ctx = settings["n_ctx"]
    parameters.n_batch = parameters.n_ubatch = settings["n_batch"]
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = settings["n_threads"]
    parameters.load_mode = settings["load_mode"]
    if settings["provider"] == "cpu":
        parameters.n_gpu_layers = 0
    parameters.n_parallel = 1
    parameters.cache_ram_mib = 0  # else the server keeps copies of what it has computed
    parameters.verbosity = -1
    server = xllamacpp.Server(parameters)

    def loop(prompt: list[int], tokens: int) -> tuple[float, int]:
        request = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "cache_prompt": False}
        timings = server.handle_completions(request)["timings"]
        # It divides all tokens by the time after the first one.
        count = int(timings["predicted_n"])
        return float(timings["predicted_per_second"]) * (count - 1) / count, count

    return loop


BARE_LOOPS: dict[str, Callable[[Path, dict[str, Any]], BareLoop]] = {
    "onnxruntime-genai": _genai,
    "openvino-genai": _openvino,
    "mlx-lm": _mlx,
    "llama.cpp": _llama_cpp,
}
"""The bare loop of each engine, opened on an artifact with the settings of its adapter."""


if __name__ == "__main__":
    main()
