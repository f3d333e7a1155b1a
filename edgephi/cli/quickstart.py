"""`edgephi quickstart`: the whole way with a demo model, explained as it goes."""

import io
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import click

from edgephi.cli.argument_types import WrittenPath
from edgephi.cli.output_file import write_output
from edgephi.cli.show.say import SaidAnswer, say
from edgephi.commands import edgephi_command
from edgephi.errors import UsageError

PROMPT = "please turn the kitchen light down to thirty percent"
QUESTION = "What does the gauge say?"
READING = 70


@dataclass(frozen=True)
class _Demo:
    """A demo model, where its bundle goes, and what is tried next: with it, and with a large one like it."""

    model: str
    folder: str
    prompt: str
    next_prompt: str
    large: str


_TEXT = _Demo("demo", "edgephi-demo", PROMPT, "set a timer for ten minutes", "phi-3.5-mini")
_VISION = _Demo("demo-vision", "edgephi-vision", QUESTION, "What do you see?", "phi-3.5-vision")


@click.command()
@click.option(
    "-o",
    "--output",
    type=WrittenPath(),
    metavar="DIR",
    help="Folder to write the demo's bundle to; a demo bundle that is there already is replaced.  "
    "[default: edgephi-demo, or edgephi-vision with --vision]",
)
@click.option("--vision", is_flag=True, help="The demo that sees: it is asked about a picture of a gauge.")
def quickstart(output: Path | None, vision: bool) -> None:
    """Build, prove and run an embedded demo model on this machine.

    The demo is a Phi-3 model of 2 million parameters that turns a spoken-style command into a JSON action;
    with --vision a Phi-3-vision as small, that reads gauges, displays and lights in pictures, and the picture
    that it is asked about is drawn beside its bundle. Both come with edgephi: nothing is downloaded.
    """
    import edgephi.runtime
    from edgephi.build.build import build, find_checkpoint
    from edgephi.build.request import BuildRequest
    from edgephi.cli.show.built import built_summary
    from edgephi.cli.show.progress import step
    from edgephi.declared.recipe import read_recipe
    from edgephi.declared.target import read_target

    start = time.perf_counter()
    demo = _VISION if vision else _TEXT
    output = Path(demo.folder) if output is None else output
    recipe, target = read_recipe(demo.model), read_target("cpu")
    _say("1. pull: the demo checkpoint is inside the package")
    with step("pull", 0):
        located = find_checkpoint(demo.model, recipe, None, progress=False)
    _say("\n2. build: quantise to INT4, export to ONNX, verify against the original weights")
    if vision:
        _say("   (the image encoder to INT8; pictures are drawn, to verify that it sees)")
    picture = Path(f"{output}.png") if vision else None
    drawn = b"" if picture is None else _drawn_gauge(picture)
    if _is_bundle_of(demo, output):
        shutil.rmtree(output)
    request = BuildRequest(model=demo.model, target=target, recipe=recipe, output=output)
    built = build(request, located, step)
    say(built_summary(built))
    if picture is not None:
        _say(f"\n3. draw: a gauge whose needle points at {READING}, in {picture}")
        write_output(picture, drawn)
    _say(f"\n{3 if picture is None else 4}. run: {demo.prompt}")
    with step("load", 0):
        session = edgephi.runtime.load(output, warn=lambda text: _say(f"warning: {text}"))
    said = SaidAnswer()
    for piece in session.stream(demo.prompt, images=[] if picture is None else [picture]):
        said.add(piece)
    said.end()
    image = () if picture is None else ("--image", picture)
    _say(
        f"\ndone in {time.perf_counter() - start:.1f} s. The bundle is in {output}; next:\n"
        f"  {edgephi_command('inspect', output)}\n"
        f"  {edgephi_command('run', output, demo.next_prompt, *image)}\n"
        f"  {edgephi_command('plan', demo.large, '--target', 'cpu')}"
    )


def _say(text: str) -> None:
    say(text, err=True)


def _drawn_gauge(picture: Path) -> bytes:
    """The PNG file of a gauge as a camera may see it: a little askew, with noise.

    Raises UsageError where another file than this one has its name.
    """
    from edgephi.reference.pictures.gauge import Gauge
    from edgephi.reference.pictures.scene import Scene

    wall = (196, 190, 180)
    gauge = Gauge(READING, Scene(448, 336, wall, tilt=-2, shade=0.15, noise=4, noise_seed=15))
    file = io.BytesIO()
    gauge.draw().save(file, "PNG")
    drawn = file.getvalue()
    if os.path.lexists(picture) and not (picture.is_file() and picture.read_bytes() == drawn):
        raise UsageError(
            f"{picture}: expected no file of that name, or quickstart's own picture, found another",
            hint="move it, or name another folder with --output: the picture lies beside it",
        )
    return drawn


def _is_bundle_of(demo: _Demo, folder: Path) -> bool:
    """Whether the folder is what an earlier quickstart has written, and holds nothing else."""
    from edgephi.bundle.files import check_files
    from edgephi.bundle.manifest import read_manifest
    from edgephi.errors import BadBundleError

    try:
        manifest = read_manifest(folder)
        check_files(folder, manifest, quick=True)
    except BadBundleError:
        return False
    return manifest.name == f"{demo.model}-cpu" and not folder.is_symlink()
