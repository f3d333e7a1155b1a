"""Decode speed of `edgephi.runtime`, beside a bare onnxruntime-genai loop over the same artifact.

Runs alternate, so that a busy moment of the machine meets both; medians are compared.
"""

import argparse
import statistics
import time
from pathlib import Path

import onnxruntime_genai

import edgephi.runtime
from edgephi.manifest import ARTIFACT_FOLDER
from edgephi.runtime.session import Options, Session
from tests.bench.measure import report

PROMPT = "Tell me all that you know about this device and what it can do."


def main() -> None:
    """Measure, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("bundle", type=Path)
    arguments.add_argument("--tokens", type=int, default=64, help="tokens to decode in each run")
    arguments.add_argument("--runs", type=int, default=5)
    options = arguments.parse_args()
    session = edgephi.runtime.load(options.bundle)
    model = onnxruntime_genai.Model(str(options.bundle / ARTIFACT_FOLDER))
    ours, bare = [], []
    for _ in range(options.runs):
        ours.append(_session(session, options.tokens))
        bare.append(_bare(model, session, options.tokens))
    ratio = statistics.median(ours) / statistics.median(bare)
    rows = [
        ("edgephi.runtime", f"{statistics.median(ours):.2f}", f"{ratio:.3f}"),
        ("bare onnxruntime-genai", f"{statistics.median(bare):.2f}", "1"),
    ]
    report(("", "decode tokens/s", "ratio"), rows)


def _session(session: Session, tokens: int) -> float:
    """Tokens per second of an answer, from its first token to its last."""
    return session.generate(PROMPT, Options(max_tokens=tokens)).decode_tokens_per_second


def _bare(model: "onnxruntime_genai.Model", session: Session, tokens: int) -> float:
    prompt = session.engine.encode(session.render(PROMPT))
    parameters = onnxruntime_genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + tokens, do_sample=False)
    generator = onnxruntime_genai.Generator(model, parameters)
    generator.append_tokens(prompt)
    stream = onnxruntime_genai.Tokenizer(model).create_stream()
    generated = 0
    first = 0.0
    while not generator.is_done():
        generator.generate_next_token()
        stream.decode(generator.get_next_tokens()[0])
        generated += 1
        if generated == 1:
            first = time.perf_counter()
    return (generated - 1) / (time.perf_counter() - first) if generated > 1 else 0.0


if __name__ == "__main__":
    main()
