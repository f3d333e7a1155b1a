"""Do the answers survive? Twenty questions to a trained model, as transformers answers and as bundles do.

    python -m tests.bench.answers [MODEL] [--targets cpu openvino gguf mlx] [--bits 8 | --recipe RECIPE]

MODEL is a checkpoint, by default the trained one of the tests. Each question is asked in the checkpoint's own
chat form, greedily, and the first tokens of each bundle's answer stand beside those of transformers on the
weights in float32, with transformers' own tokenizer and rendering of the template. transformers answers in
bfloat16 too, the type that the model is published in: a bundle is to be held against how often these two
agree. Prints a Markdown table with every answer, the bad ones too.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import edgephi.runtime
from edgephi.build.build import build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.declared.recipe import Quant, Recipe, read_recipe
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
    """A question, the ids of its prompt, and the text of the answer's first tokens, all by transformers.

    `answer` is that of the weights in float32, `rounded` that of bfloat16, "" where nobody asked for it.
    """

    question: str
    prompt: tuple[int, ...]
    answer: str
    rounded: str


def wanted_answers(
    checkpoint: Path, questions: Sequence[str] = QUESTIONS, *, rounded: bool = True
) -> list[Wanted]:
    """What transformers answers, greedily; in bfloat16 too if `rounded`."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    prompts = []
    for question in questions:
        messages = [{"role": "user", "content": question}]
        prompts.append(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])
    texts = []
    for dtype in ("float32", "bfloat16") if rounded else ("float32",):
        said = _generated(checkpoint, dtype, prompts)
        texts.append([tokenizer.decode(tokens, skip_special_tokens=True) for tokens in said])
    if not rounded:
        texts.append([""] * len(prompts))
    return [
        Wanted(question, tuple(prompt), *both)
        for question, prompt, *both in zip(questions, prompts, *texts, strict=True)
    ]


def _generated(checkpoint: Path, dtype: str, prompts: Sequence[list[int]]) -> list[list[int]]:
    """The first tokens that a checkpoint generates greedily in a floating point type."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, dtype)).eval()
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])  # [1, tokens]
        with torch.inference_mode():
            tokens = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False
            )
        found.append(tokens[0, len(prompt) :].tolist())
    return found


def recipe_at(bits: Literal[4, 8]) -> Recipe:
    """The same bits everywhere."""
    quant = Quant(
        method="search",
        bits=bits,
        group_size=32,
        symmetric=True,
        embedding_bits=bits,
        head_bits=bits,
        formats="portable",
    )
    return Recipe(name=f"int{bits}", summary="the same bits everywhere", quant=quant)


def build_with(recipe: Recipe, target: str, checkpoint: Path, folder: Path) -> Path:
    """Build a checkpoint by a recipe, unverified: what is wrong shows in the answers."""
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


def table(wanted: Sequence[Wanted], found: Mapping[str, Sequence[str]]) -> str:
    """A Markdown table: what transformers answers, and what the others do where that is something else."""
    rows = [("question", "transformers, float32", "bfloat16", *found), ("---",) * (3 + len(found))]
    for place, each in enumerate(wanted):
        others = [each.rounded, *(texts[place] for texts in found.values())]
        rows.append((each.question, each.answer, *("" if text == each.answer else text for text in others)))
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows)


def _cell(text: str) -> str:
    return text.strip().replace("|", "\\|").replace("\n", " ⏎ ")


def main() -> None:
    """Build, ask, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.answers", description=__doc__)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--bits", type=int, choices=(4, 8), default=8)
    parser.add_argument("--recipe", help="name or file of a recipe, instead of the same bits everywhere")
    arguments = parser.parse_args()
    recipe = read_recipe(arguments.recipe) if arguments.recipe else recipe_at(arguments.bits)
    with tempfile.TemporaryDirectory() as name:
        model = arguments.model or write_trained_checkpoint(Path(name) / "trained")
        wanted = wanted_answers(model)
        found = {
            target: answers(build_with(recipe, target, model, Path(name) / target), wanted)
            for target in arguments.targets
        }
    print(table(wanted, found))
    for target, texts in {"bfloat16": [each.rounded for each in wanted], **found}.items():
        of_bfloat16 = sum(each.rounded == text for each, text in zip(wanted, texts, strict=True))
        print(
            f"{target}: of {len(wanted)} answers the first {TOKENS} tokens are those of float32 in "
            f"{same(wanted, texts)}, of bfloat16 in {of_bfloat16}"
        )


if __name__ == "__main__":
    main()
