"""One process of `tests.bench.decode`: `edgephi.runtime` answers a prompt.

`python -m tests.bench.session_loop BUNDLE` prints a `Side` of `tests.bench.engine_loop` as JSON: how fast,
and with which settings. Those are what the adapter really uses, in the words of the engine's own interface.
"""

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import edgephi.runtime
from edgephi.runtime.session import Options, Session
from tests.bench.engine_loop import Side
from tests.bench.measure import high_water_mark

PROMPT = "Tell me all that you know about this device and what it can do."


def main() -> None:
    """Answer, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("bundle", type=Path)
    arguments.add_argument("--tokens", type=int, required=True)
    arguments.add_argument("--repeats", type=int, required=True)
    arguments.add_argument("--provider")
    options = arguments.parse_args()
    session = edgephi.runtime.load(options.bundle, provider=options.provider)
    capacities = _noted_capacities(session)
    answers = [session.generate(PROMPT, Options(max_tokens=options.tokens)) for _ in range(options.repeats)]
    side = Side(
        engine=session.engine.name,
        prompt=session.encode_chat([{"role": "user", "content": PROMPT}]),
        settings=SETTINGS[session.engine.name](session, max(capacities)),
        speeds=[answer.decode_tokens_per_second for answer in answers],
        tokens=min(answer.generated_tokens for answer in answers),
        peak_bytes=high_water_mark(os.getpid()),
    )
    print(json.dumps(dataclasses.asdict(side)))


def _noted_capacities(session: Session) -> list[int]:
    """For how many tokens each cache is opened from now on."""
    capacities: list[int] = []
    open_cache = session.engine.open_cache

    def noted(capacity: int, *, adapter: str = "") -> Any:
        capacities.append(capacity)
        return open_cache(capacity, adapter=adapter)

    session.engine.open_cache = noted  # type: ignore[method-assign]
    return capacities


def _genai(session: Session, capacity: int) -> dict[str, Any]:
    return {"provider": session.engine.provider, "max_length": capacity}


def _openvino(session: Session, _capacity: int) -> dict[str, Any]:
    decoder: Any = session.engine._decoder  # type: ignore[attr-defined]
    compiled = decoder.request.infer_request.get_compiled_model()
    # What the adapter asks for, and what the plugin has made of the rest.
    names = ("INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION", "DYNAMIC_QUANTIZATION_GROUP_SIZE")
    chosen = {name: _plain(compiled.get_property(name)) for name in names}
    threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
    return {"device": session.engine.provider.upper(), **chosen, "INFERENCE_NUM_THREADS": threads}


def _plain(value: Any) -> str:
    """A property as text that the engine takes for the same again."""
    return str(value.to_string() if hasattr(value, "to_string") else value)


def _mlx(session: Session, _capacity: int) -> dict[str, Any]:
    model: Any = session.engine._model  # type: ignore[attr-defined]
    return {"device": session.engine.provider, "dtype": str(model.model.norm.weight.dtype).rpartition(".")[2]}


def _llama_cpp(session: Session, capacity: int) -> dict[str, Any]:
    from edgephi.runtime.engines.llama_cpp.context import computing_threads
    from edgephi.runtime.engines.llama_cpp.library import READ_INTO_MEMORY

    engine: Any = session.engine
    return {
        "provider": engine.provider,
        "n_ctx": capacity,
        "n_batch": engine.prefill_tokens,
        "n_threads": computing_threads(),
        "load_mode": READ_INTO_MEMORY,
    }


SETTINGS = {
    "onnxruntime-genai": _genai,
    "openvino-genai": _openvino,
    "mlx-lm": _mlx,
    "llama.cpp": _llama_cpp,
}
"""What each adapter has set, for a cache of the capacity that was opened."""


if __name__ == "__main__":
    main()
