"""How long an image takes: to be read, to be encoded, and until the first token of an answer about it."""

import time
from pathlib import Path

from edgephi.errors import EdgephiError
from edgephi.machine.measurement import ImageSpeed
from edgephi.runtime.options import Options
from edgephi.runtime.session import Session

QUESTION = "What is in this picture?"
QUESTION_TOKENS = 64
"""More than the question takes in any tokenizer, its form and a first token included."""


def image_speed(session: Session, file: Path, crops: int | None) -> ImageSpeed:
    """Answer a question about an image that the session has not seen, with its encoder loaded already.

    Raises as `Session.stream` does.
    """
    image = session.prompts.images.see(file, crops)
    session.prompts.read([{"role": "user", "content": QUESTION}])  # the tokenizer's file is read once
    _load_encoder(session)
    start = time.perf_counter()
    answer = session.stream(QUESTION, Options(max_tokens=1, crops=crops), images=[file])
    read = time.perf_counter()
    for _ in answer:
        pass
    generation = answer.generation
    rows, columns = image.grid
    return ImageSpeed(
        width=image.width,
        height=image.height,
        tokens=image.tokens,
        tiles=1 + rows * columns,
        prompt_tokens=generation.prompt_tokens,
        read_seconds=read - start,
        encode_seconds=generation.image_seconds,
        first_token_seconds=generation.first_token_seconds,
    )


def _load_encoder(session: Session) -> None:
    """Have the encoder compute a black tile: it is loaded with the first one."""
    import numpy as np

    facts, encoder = session.manifest.model.images, session.engine.tile_encoder
    if facts is None or encoder is None:
        raise EdgephiError("expected a session that sees, found one that does not", hint="please report this")
    encoder.encode_tile(np.zeros((3, facts.tile, facts.tile), np.float32))
