"""Do the answers survive? Twenty questions to a trained model, as transformers answers and as bundles do.

    python -m tests.bench.answers [MODEL] [--targets cpu openvino gguf mlx] [--bits 8]

MODEL is a checkpoint, by default the trained one of the tests. Each question is asked in the checkpoint's own
chat form, greedily, and the first tokens of each bundle's answer stand beside those of transformers on the
weights in float32, with transformers' own tokenizer and rendering of the template.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import edgephi.runtime
from edgephi.build.build import build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.bundle.certificate import QualityGate
from edgephi.declared.recipe import Quant, Recipe
from edgephi.declared.target import read_target
from edgephi.runtime.options import Options
from edgephi.steps import silent
from tests.trained_checkpoint import write_trained_checkpoint

TOKENS = 16
"""As many of an answer's first tokens are compared."""
TARGETS = ("cpu", "openvino", "gguf", "mlx")
QUESTIONS = (
    "What is the capital of France?",
    "How many days are in a week?",
    "Name the largest planet in our solar system.",
    "What do bees make?",
    "Which language is spoken in Brazil?",
    "What is the opposite of hot?",
    "Translate 'good morning' to Spanish.",
    "Write one sentence about the sea.",
    "What is 7 + 5?",
    "Who wrote Romeo and Juliet?",
    "What gas do plants take in?",
    "List three colours.",
    "What is the boiling point of water in Celsius?",
    "Give me a short recipe for tea.",
    "What is a lighthouse for?",
    "Explain in one sentence what a computer does.",
    "Which animal says moo?",
    "What comes after Tuesday?",
    "Is the sun a star or a planet?",
    "Write a Python line that prints hello.",
)


@dataclass(frozen=True)
class Wanted:
    """A question, the ids of its prompt, and the text of the answer's first tokens, all by transformers."""

    question: str
    prompt: tuple[int, ...]
    answer: str


def wanted_answers(checkpoint: Path) -> list[Wanted]:
    """What transformers answers to QUESTIONS, greedily in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    found = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        with torch.inference_mode():
            tokens = model.generate(torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False)[0]
        answer = tokenizer.decode(tokens[len(prompt) :], skip_special_tokens=True)
        found.append(Wanted(question, tuple(prompt), answer))
    return found


def build_at(bits: Literal[4, 8], target: str, checkpoint: Path, folder: Path) -> Path:
    """Build a checkpoint at so many bits everywhere, unverified: what is wrong shows in the answers."""
    quant = Quant(
        method="search",
        bits=bits,
        group_size=32,
        symmetric=True,
        embedding_bits=bits,
        head_bits=bits,
    )
    recipe = Recipe(
        name=f"int{bits}",
        summary="the same bits everywhere",
        quant=quant,
        gate=QualityGate(),
        evaluation="general",
    )
    request = BuildRequest(str(checkpoint), read_target(target), recipe, folder, verify="off")
    build(request, find_checkpoint(str(checkpoint), recipe, None, progress=False), silent)
    return folder


def answers(bundle: Path, wanted: Sequence[Wanted]) -> list[str]:
    """The first tokens of the bundle's answers, as text. Every prompt has the ids of transformers."""
    session = edgephi.runtime.load(bundle, provider="cpu")
    found = []
    for each in wanted:
        messages = [{"role": "user", "content": each.question}]
        if session.encode_chat(messages) != list(each.prompt):
            raise AssertionError(f"{bundle.name}: {each.question}: other ids than transformers'")
        found.append(session.generate(each.question, Options(max_tokens=TOKENS)).text)
    return found


def same(wanted: Sequence[Wanted], found: Sequence[str]) -> int:
    """How many answers begin as transformers' do."""
    return sum(each.answer == text for each, text in zip(wanted, found, strict=True))


def main() -> None:
    """Build, ask, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.answers", description=__doc__)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--bits", type=int, choices=(4, 8), default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        model = arguments.model or write_trained_checkpoint(Path(name) / "trained")
        wanted = wanted_answers(model)
        found = {
            target: answers(build_at(arguments.bits, target, model, Path(name) / target), wanted)
            for target in arguments.targets
        }
    for place, each in enumerate(wanted):
        print(f"{each.question}\n  {'transformers':13}{each.answer!r}")
        for target, texts in found.items():
            print(f"  {target:13}{'the same' if texts[place] == each.answer else repr(texts[place])}")
    for target, texts in found.items():
        print(f"{target}: {same(wanted, texts)} of {len(wanted)} the same for {TOKENS} tokens")


if __name__ == "__main__":
    main()
