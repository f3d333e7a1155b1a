"""How far llama.cpp, mlx-lm and edgephi are from the original of Phi-3.5-MoE and of Phi-3-small.

    python -m tests.bench.other_tools [--prompts 64] [--targets cpu openvino mlx gguf] [--mlx-python PYTHON …]

On checkpoints of a few megabytes: random ones in the two models' forms, and the mixture of experts that was
trained for the tests, which answers commands. Other tools compute in float32 with the checkpoint's weights:
what is left is their mistake. edgephi's bundles have weights of 4 bits, and are held against the original
with these same weights: what is left is its engines' rounding. The original is transformers' class, and for
Phi-3-small, which has none there, edgephi's reference.

KL is the mean divergence in nats for each token; "same best" how often the most likely token is the same;
"same text" how many prompts are continued greedily with the same tokens, and "right" how many of them as the
commands want it. "Sees ahead" is how much the logits before the last token of a text change at most when
that does, in standard deviations of all of them: they must not. An mlx-lm of another version is asked by the
PYTHON of its environment.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from edgephi.checkpoint.tokenizer import load_tokenizer
from edgephi.errors import CannotServeError
from tests.bench.other_tools.asked import Answers, Asked, Model, answers_of, distance
from tests.bench.other_tools.llama_cpp import Change, llama_cpp_model
from tests.bench.other_tools.mlx_process import ask_mlx
from tests.bench.other_tools.operator_routing import route_by_operator
from tests.bench.other_tools.original import (
    Tensors,
    checkpoint_weights,
    reference,
    stored_tensors,
    tensors_of,
    transformers_model,
)
from tests.bench.other_tools.ours import own_engine
from tests.demo.moe_demo import MOE_DEMO, some_held_out_commands
from tests.demo.train import ASSISTANT, END, END_OF_TEXT, chat_texts
from tests.tiny_phi3small import write_tiny_phi3small
from tests.tiny_phimoe import write_tiny_phimoe

_CONVERSATIONS = 32
# mlx-lm's class writes where the ids are that Phi-3-small never says, so it needs all rows.
_PHI_3_SMALL_VOCABULARY, _COMPARED = 100_352, 512
_CHANGES = {
    "as its converter writes it": Change.NONE,
    "with LongRoPE's magnitude": Change.MAGNITUDE,
    "with that, and layer norms": Change.MAGNITUDE | Change.CENTRED,
}


@dataclass(frozen=True)
class Subject:
    """A checkpoint, what is asked of it, and the answers that would be right; none for a random one."""

    name: str
    checkpoint: Path
    asked: Asked
    right: tuple[tuple[int, ...], ...] = ()

    @property
    def is_moe(self) -> bool:
        """Whether transformers, and so llama.cpp, has a class for it."""
        return not self.name.startswith("Phi-3-small")


Row = tuple[str, Answers | str, Answers]
"""Who, its answers or why there are none, and those of the original with the same weights."""


def main() -> None:
    """Compute, and print a table for each checkpoint."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.other_tools",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--prompts", type=int, default=64, help="commands that the demo is asked")
    parser.add_argument("--targets", nargs="+", default=["cpu", "openvino", "mlx", "gguf"])
    parser.add_argument("--mlx-python", type=Path, nargs="*", default=[], metavar="PYTHON")
    arguments = parser.parse_args()

    pythons = [Path(sys.executable), *arguments.mlx_python]
    with tempfile.TemporaryDirectory() as name:
        for subject in _subjects(Path(name), arguments.prompts):
            print(f"\n{subject.name}\n", flush=True)
            for line in _table(subject, _rows(subject, arguments.targets, pythons)):
                print(line, flush=True)


def _subjects(folder: Path, prompts: int) -> Iterator[Subject]:
    chance = np.random.default_rng(0)

    def texts(*lengths: int) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(chance.integers(3, 500, length).tolist()) for length in lengths)

    yield Subject(
        "Phi-3.5-MoE's form, random weights",
        write_tiny_phimoe(folder / "moe", dtype="F32"),
        Asked(texts(1, 17, 200, 400)),
    )
    yield _demo(prompts)
    small = write_tiny_phi3small(
        folder / "small", dtype="F32", vocab=_PHI_3_SMALL_VOCABULARY, hidden=128, layers=4
    )
    # A multiple of its blocks, others that are not, and one that is too long to be dense.
    asked = Asked(texts(64, 200, 1100), vocabulary=_COMPARED)
    yield Subject("Phi-3-small's form, random weights", small, asked)


def _demo(prompts: int) -> Subject:
    tokenizer = load_tokenizer(MOE_DEMO)

    def encoded(texts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)

    commands = some_held_out_commands(prompts)
    whole = encoded(chat_texts(commands))
    begun = tuple(text[: _start_of_answer(text)] for text in whole)
    answers = tuple(text[len(start) : -1] for start, text in zip(begun, whole, strict=True))
    stops = (END_OF_TEXT, ASSISTANT, END)
    asked = Asked(encoded(chat_texts(some_held_out_commands(_CONVERSATIONS))), begun, stops)
    return Subject("Phi-3.5-MoE's form, trained: home commands", MOE_DEMO, asked, answers)


def _start_of_answer(text: Sequence[int]) -> int:
    """Where the last answer begins."""
    return len(text) - list(reversed(text)).index(ASSISTANT)


def _rows(subject: Subject, targets: Sequence[str], pythons: Sequence[Path]) -> Iterator[Row]:
    checkpoint, asked = subject.checkpoint, subject.asked
    stored = stored_tensors(checkpoint) if subject.is_moe else {}
    model = transformers_model(checkpoint) if subject.is_moe else reference(checkpoint_weights(checkpoint))
    asked = _with_other_ends(asked)
    original = answers_of(model, asked)
    who = f"transformers {version('transformers')}" if subject.is_moe else "edgephi's reference"
    yield who, original, original
    if subject.is_moe:
        for what, change in _CHANGES.items():
            found = answers_of(llama_cpp_model(checkpoint, stored, change), asked)
            yield f"llama.cpp (xllamacpp {version('xllamacpp')}), {what}", found, original
    for python in pythons:
        ended = ask_mlx(python, checkpoint, asked)
        yield f"mlx-lm {ended.version}", ended.answers or ended.reason, original
        if subject.is_moe:
            ended = ask_mlx(python, checkpoint, asked, short=True)
            yield f"mlx-lm {ended.version}, with the short factors", ended.answers or ended.reason, original
    if subject.is_moe and "cpu" in targets:
        what = "{}, routed by `use_sparse_mixer`"
        yield from _own("cpu", what, checkpoint, asked, stored, route_by_operator)
    for target in targets:
        yield from _own(target, f"edgephi, {target} ({{}})", checkpoint, asked, stored)


def _own(
    target: str,
    what: str,
    checkpoint: Path,
    asked: Asked,
    stored: Tensors,
    change: Callable[[Path], None] | None = None,
) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            engine = own_engine(target, checkpoint, Path(folder) / "bundle", change)
        except CannotServeError as error:
            yield what.format("refused"), error.message, Answers(())
            return
        architecture = checkpoint_weights(checkpoint).architecture
        model: Model = reference(engine.weights)
        if stored:
            model = transformers_model(checkpoint, tensors_of(engine.weights, architecture, stored))
        found = answers_of(engine.model, asked)
        yield what.format(engine.name), found, answers_of(model, asked)


def _with_other_ends(asked: Asked) -> Asked:
    """With the last text once more, another token at its end."""
    *start, last = asked.texts[-1]
    return replace(asked, texts=(*asked.texts, (*start, last - 1 if last > 3 else last + 1)))


def _sees_ahead(answers: Answers) -> float:
    """In standard deviations of the logits."""
    one, other = answers.logits[-2:]
    return float(np.abs(one - other)[:-1].max() / one.std())


def _table(subject: Subject, rows: Iterator[Row]) -> Iterator[str]:
    columns: dict[str, Callable[[Answers, Answers], str]] = {
        "KL": lambda found, original: f"{distance(original, found).divergence:.1e}",
        "same best": lambda found, original: f"{distance(original, found).same_top:.1%}",
    }
    if not subject.is_moe:
        columns["sees ahead"] = lambda found, _: f"{_sees_ahead(found):.1g}"
    if subject.right:
        count = len(subject.right)
        columns |= {
            "same text": lambda found, original: f"{distance(original, found).same_texts} of {count}",
            "right": lambda found, _: f"{_right(subject, found)} of {count}",
        }
    yield f"| | {' | '.join(columns)} |"
    yield f"|---|{'---|' * len(columns)}"
    for who, found, original in rows:
        cells = [found] if isinstance(found, str) else [of(found, original) for of in columns.values()]
        yield f"| {who} | {' | '.join(cells)} |"


def _right(subject: Subject, found: Answers) -> int:
    return sum(one == other for one, other in zip(subject.right, found.continued, strict=True))


if __name__ == "__main__":
    main()
