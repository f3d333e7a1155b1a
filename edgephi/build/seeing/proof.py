"""The proof of what a bundle sees: pictures, read by engine and reference, and the text behind them."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgephi.build.measured import ENGINE, LOGIT_BYTES, ORIGINAL, QUANTISED, divergences
from edgephi.bundle.certificate import ImageProof
from edgephi.bundle.image_tokens import ImageFacts
from edgephi.bundle.manifest import ARTIFACT_FOLDER, Manifest
from edgephi.checkpoint.checkpoint import Checkpoint, CheckpointImageWeights, CheckpointWeights
from edgephi.checkpoint.conversation import conversation_renderer
from edgephi.checkpoint.tokenizer import encoder
from edgephi.export.exporter import exporter, image_encoder_exporter
from edgephi.processes.ask import ask
from edgephi.reference.comparison.counted_text import counted_text
from edgephi.reference.comparison.summary import few_digits, summary
from edgephi.reference.evaluation_text import Domain, EvaluationLevel
from edgephi.reference.image_encoder import image_tokens
from edgephi.reference.pictures.evaluation_pictures import EvaluationPicture, evaluation_pictures
from edgephi.reference.weights import ImageWeights
from edgephi.runtime.images.preparation import PreparedImage, prepare
from edgephi.runtime.proof.logits import AskedImage, AskedPassage, Computed, LogitsQuestion
from edgephi.steps import Step

_PLACE = "<|image_1|>"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SeenPassage:
    """A conversation about a picture as the model reads it; from `first` on it is text behind the picture."""

    image: PreparedImage
    ids: tuple[int, ...]
    first: int


def certify_images(
    checkpoint: Checkpoint,
    bundle: Path,
    manifest: Manifest,
    *,
    level: EvaluationLevel,
    domain: Domain,
    step: Step,
    scratch: Path | None = None,
) -> ImageProof:
    """Measure a bundle that sees, in the folder `bundle`, with pictures in the context.

    Raises as `edgephi.build.verify.certify` does; memory and scratch are of the same kind.
    """
    encoders: dict[str, ImageWeights] = {ORIGINAL: CheckpointImageWeights(checkpoint)}
    facts = encoders[ORIGINAL].architecture.facts
    pictures = evaluation_pictures(level, domain)
    passages = seen_passages(checkpoint, manifest, pictures, facts)
    text = counted_text([passage.ids for passage in passages], first=[passage.first for passage in passages])
    place = bundle / ARTIFACT_FOLDER
    engine = manifest.target.engine
    architecture = checkpoint.architecture
    encoders[QUANTISED] = image_encoder_exporter(engine).weights(place, encoders[ORIGINAL].architecture)
    versions = {
        ORIGINAL: CheckpointWeights(checkpoint),
        QUANTISED: exporter(engine).artifact_weights(place, architecture),
    }
    with tempfile.TemporaryDirectory(prefix="edgephi-verify-images-", dir=scratch) as folder:
        logits, rows = Path(folder) / "logits", Path(folder) / "rows"
        size = len(text.rows) * architecture.vocabulary_size * LOGIT_BYTES
        with step("images: engine", size) as done:
            _run_engine(bundle, passages, Path(folder), logits=logits, rows=rows, done=done)
        layers = encoders[ORIGINAL].architecture.layers
        with step("images: encoder", len(encoders) * len(passages) * layers) as done:
            tables = {name: _rows(weights, passages, done) for name, weights in encoders.items()}
        found = divergences(
            [passage.ids for passage in passages],
            text,
            versions,
            logits,
            step,
            name="images: reference",
            image_rows=tables,
        )
        seen = np.fromfile(rows, np.float32).reshape(tables[ORIGINAL].shape)
    return ImageProof(
        pictures=len(pictures),
        sizes=tuple(f"{each.image.width}x{each.image.height}" for each in pictures),
        image_tokens=sum(passage.image.tokens for passage in passages),
        tokens=len(text.rows),
        encoder_error=_relative_squared(tables[QUANTISED], seen),
        encoder_loss=_relative_squared(tables[ORIGINAL], tables[QUANTISED]),
        export_error=summary(found[QUANTISED, ENGINE], text.passage),
        quantisation_loss=summary(found[ORIGINAL, QUANTISED], text.passage),
        end_to_end=summary(found[ORIGINAL, ENGINE], text.passage),
    )


def seen_passages(
    checkpoint: Checkpoint, manifest: Manifest, pictures: Sequence[EvaluationPicture], facts: ImageFacts
) -> list[SeenPassage]:
    """The conversations about the pictures: a question about each, then one that needs none.

    Pictures that would fill the context on their own are left out.
    """
    encode, render = encoder(checkpoint.tokenizer.folder), conversation_renderer(manifest.chat)
    passages, next_id = [], -1
    for picture in pictures:
        image = prepare(picture.image, facts, picture.crops)
        turns = ((f"{_PLACE}\n{picture.question}", picture.answer), picture.following)
        messages = [
            {"role": role, "content": content}
            for turn in turns
            for role, content in zip(("user", "assistant"), turn, strict=True)
        ]
        before, _, behind = render(messages).partition(_PLACE)
        start = list(encode(before))
        ids = [*start, *range(next_id, next_id - image.tokens, -1), *encode(behind)]
        if len(ids) < manifest.limits.context:
            passages.append(SeenPassage(image, tuple(ids), len(start) + image.tokens))
            next_id -= image.tokens
    return passages


def _run_engine(
    bundle: Path,
    passages: Sequence[SeenPassage],
    folder: Path,
    *,
    logits: Path,
    rows: Path,
    done: Callable[[int], None],
) -> None:
    """Have the engine write its logits behind the pictures, and what its encoder makes of these."""
    asked = []
    for number, passage in enumerate(passages):
        file = folder / f"{number}.npy"
        np.save(file, passage.image.pixels)
        asked.append(AskedImage(str(file), passage.image.grid, passage.image.tokens, str(number)))
    question = LogitsQuestion(
        str(bundle),
        str(logits),
        tuple(AskedPassage(passage.ids, passage.first) for passage in passages),
        None,
        images=tuple(asked),
        image_output=str(rows),
    )
    ask(
        question,
        Computed,
        who="the engine's process, which looks at pictures,",
        hint="free some memory, or build with --verify off and verify on a larger machine",
        done=done,
    )


def _rows(weights: ImageWeights, passages: Sequence[SeenPassage], done: Callable[[int], None]) -> Floats:
    """The tokens of all pictures, one after the other, [tokens, hidden]."""
    images = (passage.image for passage in passages)
    return np.concatenate([image_tokens(weights, each.pixels, each.grid, done=done) for each in images])


def _relative_squared(expected: Floats, found: Floats) -> float:
    difference = float(np.square(expected - found, dtype=np.float64).sum())
    return few_digits(difference / float(np.square(expected, dtype=np.float64).sum()))
