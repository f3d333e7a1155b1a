"""`edgephi run`: answer one prompt with a bundle."""

import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgephi.cli.options import (
    answer_options,
    bundle_argument,
    crops_option,
    device_context_option,
    image_option,
    provider_option,
    switched_adapter_option,
)
from edgephi.cli.rules_options import rules_options
from edgephi.cli.sampling_options import sampling_options
from edgephi.cli.show.say import SaidAnswer, say, say_document
from edgephi.cli.system_message import system_message
from edgephi.cli.terminal.image_line import image_line
from edgephi.cli.terminal.reading import Reading
from edgephi.cli.terminal.utf8 import checked_utf8
from edgephi.commands import edgephi_command
from edgephi.errors import UsageError

if TYPE_CHECKING:
    from edgephi.runtime.images.seen_image import SeenImage
    from edgephi.runtime.session import Options, Session


@click.command(no_args_is_help=True)
@bundle_argument
@click.argument("prompt", required=False)
@image_option
@crops_option
@answer_options
@sampling_options
@rules_options
@device_context_option
@provider_option
@switched_adapter_option
@click.option(
    "--beams",
    type=click.IntRange(min=1),
    metavar="N",
    help="Search for the likeliest answer with N beams, and print it when it is found.",
)
@click.option(
    "--length-penalty",
    type=float,
    metavar="L",
    help="With --beams: above 0 longer answers are preferred, below 0 shorter ones.  [default: 1.0]",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document with the answer and its numbers."
)
def run(
    bundle: Path,
    prompt: str | None,
    *,
    images: tuple[Path, ...],
    crops: int | None,
    max_tokens: int | None,
    temperature: float,
    top_p: float,
    seed: int | None,
    sampling: dict[str, Any],
    system: str | None,
    rules: dict[str, Any],
    context: int | None,
    provider: str | None,
    adapter: str | None,
    beams: int | None,
    length_penalty: float | None,
    as_json: bool,
) -> None:
    """Answer one prompt with a bundle.

    PROMPT is read from standard input when it is "-" or left out. The answer goes to standard output as
    the model writes it, and nothing else does.
    """
    # The engine is heavy to import: a prompt that is missing should not wait for it.
    prompt = checked_utf8(_from_standard_input() if prompt is None or prompt == "-" else prompt, "prompt")
    if not prompt:
        raise UsageError(
            "expected a prompt, found an empty one", hint=f"see `{edgephi_command('run', '--help')}`"
        )
    if length_penalty is not None and beams is None:
        raise UsageError(
            "expected --beams with --length-penalty, found none",
            hint="--beams 4 searches with four beams",
        )
    system = system_message(system)

    import edgephi.runtime
    from edgephi.bundle.manifest import read_manifest
    from edgephi.runtime.images.in_messages import look_at
    from edgephi.runtime.session import Options

    options = Options(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        system=system,
        crops=crops,
        **sampling,
        **rules,
    )
    seen = look_at(images, read_manifest(bundle).model.images, crops) if images else []
    session = edgephi.runtime.load(
        bundle,
        context=context,
        provider=provider,
        adapter=adapter,
        warn=lambda text: say(f"warning: {text}", err=True),
    )
    if not as_json:
        for image in seen:
            say(image_line(image), dim=True, err=True)
    if beams is not None:
        _search(
            session,
            prompt,
            seen,
            options,
            beams=beams,
            length_penalty=1.0 if length_penalty is None else length_penalty,
            as_json=as_json,
        )
    else:
        _answer(session, prompt, seen, options, as_json=as_json)


def _answer(
    session: "Session", prompt: str, images: "list[SeenImage]", options: "Options", *, as_json: bool
) -> None:
    """Print the answer as it is written, or a document of it."""
    reading, said = Reading(), SaidAnswer()
    answer = session.stream(prompt, options, images=images, on_image=reading.show_images)
    _say_engine(session)
    try:
        for piece in answer:
            reading.clear()
            if not as_json:
                said.add(piece)
    finally:
        reading.clear()
    if not as_json:
        said.end()
        return
    generation = answer.generation
    document = {
        "text": generation.text,
        "stop_reason": generation.stop_reason,
        "tokens": {"prompt": generation.prompt_tokens, "generated": generation.generated_tokens},
        "timings": {
            "load_seconds": round(session.load_seconds, 4),
            "first_token_seconds": round(generation.first_token_seconds, 4),
            "prefill_tokens_per_second": round(generation.prefill_tokens_per_second, 2),
            "decode_tokens_per_second": round(generation.decode_tokens_per_second, 2),
            **({"image_seconds": round(generation.image_seconds, 4)} if images else {}),
        },
        **_of_images(images),
    }
    say_document({**document, **_facts(session)})


def _search(
    session: "Session",
    prompt: str,
    images: "list[SeenImage]",
    options: "Options",
    *,
    beams: int,
    length_penalty: float,
    as_json: bool,
) -> None:
    """Print the best answer that beam search finds, or a document of all of them."""
    start = time.perf_counter()
    messages = session.prompts.single(prompt, options.system, images)
    options = dataclasses.replace(options, system=None)
    found = session.beams(messages, beams, options, length_penalty=length_penalty)
    seconds = time.perf_counter() - start
    _say_engine(session)
    if not as_json:
        said = SaidAnswer()
        said.add(found[0].text)
        said.end()
        return
    document = {
        "text": found[0].text,
        "stop_reason": found[0].stop_reason,
        "beams": [
            {
                "text": beam.text,
                "score": round(beam.score, 6),
                "stop_reason": beam.stop_reason,
                "tokens": len(beam.token_ids),
            }
            for beam in found
        ],
        "timings": {"load_seconds": round(session.load_seconds, 4), "search_seconds": round(seconds, 4)},
        **_of_images(images),
    }
    say_document({**document, **_facts(session)})


def _of_images(images: "list[SeenImage]") -> dict[str, Any]:
    """What a document says of the images that were asked about; nothing where there was none."""
    if not images:
        return {}
    return {
        "images": [
            {"file": image.name, "width": image.width, "height": image.height, "tokens": image.tokens}
            for image in images
        ]
    }


def _say_engine(session: "Session") -> None:
    """Say what computes."""
    from edgephi.runtime.adapter import EMULATION_NOTE, is_emulated

    engine = session.engine
    with_adapter = f", with {session.adapter}" if session.adapter else ""
    say(f"{engine.name} {engine.version} on {engine.provider}{with_adapter}", dim=True, err=True)
    if is_emulated(engine.provider):
        say(f"note: {EMULATION_NOTE}", err=True)


def _facts(session: "Session") -> dict[str, Any]:
    """What a document says of the bundle and what computes it."""
    from edgephi.runtime.adapter import is_emulated

    engine = session.engine
    return {
        "model": session.manifest.model.id,
        "adapter": session.adapter or None,
        "engine": {"name": engine.name, "version": engine.version},
        "provider": engine.provider,
        "emulated": is_emulated(engine.provider),
        "context": session.context,
    }


def _from_standard_input() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            "expected a prompt, found none",
            hint=f"`{edgephi_command('run', 'BUNDLE', 'your question')}`, or pipe the prompt in",
        )
    data = sys.stdin.buffer.read()
    return data.decode(errors="surrogateescape").rstrip("\r\n")
