"""What a bundle's engine computes, in a process of its own, which is asked with `LogitsQuestion`.

The builder proves a bundle with this; the engine's memory is gone afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgephi.bundle.image_tokens import ImageFacts
from edgephi.bundle.manifest import ARTIFACT_FOLDER, TOKENIZER_FILE, Manifest, read_manifest
from edgephi.engines.facts.registry import known_engines
from edgephi.errors import EdgephiError, from_os_error
from edgephi.processes.ask import Done, answer
from edgephi.runtime.adapter import Engine, adapter_of, open_engine
from edgephi.runtime.images.encode import ReadyImage, encode_image
from edgephi.runtime.proof.clear_answer import ClearAnswer, clear_answer
from edgephi.runtime.text.chat_prompt import ChatPrompts
from edgephi.runtime.text.tokenizer_file import added_tokens, beginning_tokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_STEP = 32  # tokens in one call: bounds the engine's copy of the logits, and is what a progress bar sees
_QUESTION_TOKENS = 512  # room for a question and its answer


@dataclass(frozen=True)
class UserQuestion:
    """What a user might ask, and how many tokens the answer may have."""

    prompt: str
    max_tokens: int


@dataclass(frozen=True)
class AskedPassage:
    """Tokens that begin in an empty context; logits are wanted from position `first` of them on."""

    tokens: tuple[int, ...]
    first: int = 0


@dataclass(frozen=True)
class AskedImage:
    """An image that is ready for the encoder; its pixels lie in a `file` of NumPy's: see `ReadyImage`.

    The tokens of the first one are -1 and below, those of the next follow.
    """

    file: str
    grid: tuple[int, ...]
    tokens: int
    key: str


@dataclass(frozen=True)
class LogitsQuestion:
    """Write the logits after each token that is wanted to the file `output`, float32 [tokens, vocabulary].

    Those of the passages follow one another. Progress is told in bytes of the file. `question` None: only
    that. `adapter` is the name of the one that all is computed with, and `beside` the folder of the artifact
    that has it, where that is not the bundle. What the encoder makes of `images` is written to
    the file `image_output`, float32 [tokens, hidden], before all else.
    """

    bundle: str
    output: str
    passages: tuple[AskedPassage, ...]
    question: UserQuestion | None
    adapter: str = ""
    beside: str = ""
    images: tuple[AskedImage, ...] = ()
    image_output: str = ""


@dataclass(frozen=True)
class Computed:
    """What computed, name and version of the `engine`, and how it answers the question, if it was asked."""

    engine: str
    provider: str
    answer: ClearAnswer | None


def compute(asked: LogitsQuestion, done: Done) -> Computed:
    """Do what is asked, in this process.

    Where the bundle's provider is missing, its stand-in computes the same artifact.
    """
    bundle, output = Path(asked.bundle), Path(asked.output)
    beside = Path(asked.beside) if asked.beside else bundle
    manifest = read_manifest(beside)
    longest = max(len(passage.tokens) for passage in asked.passages)
    context = min(max(longest + 1, _QUESTION_TOKENS), manifest.limits.context)
    engine = open_engine(bundle, manifest, context=context, provider=_provider(manifest), beside=beside)
    try:
        if manifest.model.images is not None and asked.images:
            _write_images(engine, asked, manifest.model.images)
        with output.open("wb") as file:
            for passage in asked.passages:
                for wanted in _wanted(engine, passage, asked.adapter):
                    file.write(wanted.astype("<f4", copy=False).data)
                    file.flush()
                    done(wanted.size * 4)
    except OSError as cause:
        raise from_os_error(cause, place=output) from None
    said = _said(bundle, manifest, engine, asked, context)
    return Computed(f"{engine.name} {engine.version}", engine.provider, said)


def _write_images(engine: Engine, asked: LogitsQuestion, facts: ImageFacts) -> None:
    """Encode the images, and write what they are."""
    table = engine.image_rows
    if table is None:
        raise EdgephiError("expected an engine that sees, found one that does not", hint="please report this")
    import numpy as np

    with Path(asked.image_output).open("wb") as file:
        for image in asked.images:
            rows, columns = image.grid
            ids = table.place(image.key, image.tokens)
            ready = ReadyImage(np.load(image.file), (rows, columns), image.tokens, image.key)
            for _ in encode_image(engine, ready, facts):
                pass
            file.write(table.take(ids).data)


def _wanted(engine: Engine, passage: AskedPassage, adapter: str) -> Iterator[NDArray[np.float32]]:
    """The logits of a passage that are wanted, in blocks [tokens, vocabulary]; each call starts a context."""
    position = 0
    for block in engine.logits(list(passage.tokens), step=_STEP, adapter=adapter):
        wanted = block[max(0, passage.first - position) :]
        position += len(block)
        if len(wanted):
            yield wanted


def _said(
    bundle: Path, manifest: Manifest, engine: Engine, asked: LogitsQuestion, context: int
) -> ClearAnswer | None:
    if asked.question is None:
        return None
    file, sees = bundle / ARTIFACT_FOLDER / TOKENIZER_FILE, manifest.model.images is not None
    return clear_answer(
        engine,
        ChatPrompts(engine, added_tokens(file), sees=sees, beginning=beginning_tokens(file) if sees else ()),
        asked.question.prompt,
        max_tokens=asked.question.max_tokens,
        context=context,
        system=manifest.chat.system,
        stop_token_ids=manifest.chat.stop_token_ids,
        adapter=asked.adapter,
    )


def _provider(manifest: Manifest) -> str:
    """The bundle's provider or, where that cannot be used here, its stand-in."""
    wanted = manifest.target.provider
    facts = known_engines().get(manifest.target.engine)
    if facts is None or wanted not in facts.providers:
        return wanted  # it is refused with a reason later
    if adapter_of(facts).provider_problem(wanted) is None:
        return wanted
    return facts.providers[wanted].stand_in or wanted


if __name__ == "__main__":
    answer(LogitsQuestion, compute)
