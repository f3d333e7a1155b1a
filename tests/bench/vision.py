"""How many held-out pictures does the demo that sees read, as published and as a bundle of each engine?

    python -m tests.bench.vision [--targets cpu openvino gguf mlx] [--count 300]

Each picture is a drawn gauge, a display or a row of lights that no training has seen, with one question that
has one right answer. "bf16" are the stored weights on torch, prepared by the published processor's steps;
bundles compute on the CPU.
"""

import argparse
import tempfile
import time
from pathlib import Path

from tokenizers import Tokenizer

import edgephi.runtime
from tests.demo.picture_questions import held_out_pictures
from tests.demo.train_vision import right_answers, shares
from tests.demo.vision_demo import VISION_FOLDER, answers, build_vision_demo
from tests.demo.vision_model import load_vision_model


def main() -> None:
    """Examine, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--targets", nargs="*", default=["cpu", "openvino", "gguf", "mlx"])
    arguments.add_argument("--count", type=int, default=300, help="pictures to ask about")
    options = arguments.parse_args()
    asked = [*held_out_pictures(options.count)]
    tokenizer = Tokenizer.from_file(str(VISION_FOLDER / "tokenizer.json"))
    right = right_answers(load_vision_model(VISION_FOLDER), tokenizer, asked)
    print(f"bf16      {shares(asked, right)}", flush=True)
    for target in options.targets:
        with tempfile.TemporaryDirectory() as folder:
            build_vision_demo(target, Path(folder) / "bundle")
            session = edgephi.runtime.load(Path(folder) / "bundle", provider="cpu")
            start = time.perf_counter()
            right = [
                said == each.question.answer
                for said, each in zip(answers(session, asked), asked, strict=True)
            ]
            seconds = time.perf_counter() - start
        print(f"{target:10}{shares(asked, right)}, {1000 * seconds / len(asked):.0f} ms each", flush=True)


if __name__ == "__main__":
    main()
