"""`python stock_mlx.py FOLDER QUESTION ANSWER`: mlx-lm as it is, on a checkpoint in float32, on the CPU.

A program by itself: it needs mlx-lm of any version and nothing of this repository. QUESTION is a JSON file
with the fields of `Asked`, ANSWER the .npz file to write.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model


def main() -> None:
    """Load, compute, write."""
    folder, question, answer = map(Path, sys.argv[1:])
    print(version("mlx-lm"), flush=True)
    asked = json.loads(question.read_text())
    mx.set_default_device(mx.cpu)
    model, _ = load_model(folder)
    model.set_dtype(mx.float32)

    def compute(tokens: list[int]) -> Any:
        logits = model(mx.array([tokens]))
        mx.eval(logits)
        return np.array(logits[0])[:, : asked["vocabulary"]]

    found = {f"logits{place}": compute(text) for place, text in enumerate(asked["texts"])}
    for place, prompt in enumerate(asked["prompts"]):
        tokens = list(prompt)
        while len(tokens) < len(prompt) + asked["most_tokens"]:
            token = int(compute(tokens)[-1].argmax())
            if token in asked["stops"]:
                break
            tokens.append(token)
        found[f"continued{place}"] = np.array(tokens[len(prompt) :], np.int64)
    np.savez(answer, **found)


if __name__ == "__main__":
    main()
