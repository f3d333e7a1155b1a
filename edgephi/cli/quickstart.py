"""`edgephi quickstart`: the whole way with the demo model, explained as it goes."""

import shutil
import time
from pathlib import Path

import click

from edgephi.cli.argument_types import WrittenPath
from edgephi.cli.show.say import SaidAnswer, say
from edgephi.commands import edgephi_command

PROMPT = "please turn the kitchen light down to thirty percent"


@click.command()
@click.option(
    "-o",
    "--output",
    type=WrittenPath(),
    default=Path("edgephi-demo"),
    show_default=True,
    metavar="DIR",
    help="Folder to write the demo's bundle to; a demo bundle that is there already is replaced.",
)
def quickstart(output: Path) -> None:
    """Build, prove and run the embedded demo model on this machine.

    The demo is a Phi-3 model of 2 million parameters that turns a spoken-style command into a JSON action.
    It comes with edgephi: nothing is downloaded.
    """
    import edgephi.runtime
    from edgephi.build.build import build, find_checkpoint
    from edgephi.build.request import BuildRequest
    from edgephi.cli.show.built import built_summary
    from edgephi.cli.show.progress import step
    from edgephi.declared.recipe import read_recipe
    from edgephi.declared.target import read_target

    start = time.perf_counter()
    recipe, target = read_recipe("demo"), read_target("cpu")
    _say("1. pull: the demo checkpoint is inside the package")
    with step("pull", 0):
        located = find_checkpoint("demo", recipe, None, progress=False)
    _say("\n2. build: quantise to INT4, export to ONNX, verify against the original weights")
    if _is_demo_bundle(output):
        shutil.rmtree(output)
    request = BuildRequest(model="demo", target=target, recipe=recipe, output=output)
    built = build(request, located, step)
    say(built_summary(built))
    _say(f"\n3. run: {PROMPT}")
    with step("load", 0):
        session = edgephi.runtime.load(output, warn=lambda text: _say(f"warning: {text}"))
    said = SaidAnswer()
    for piece in session.stream(PROMPT):
        said.add(piece)
    said.end()
    _say(
        f"\ndone in {time.perf_counter() - start:.1f} s. The bundle is in {output}; next:\n"
        f"  {edgephi_command('inspect', output)}\n"
        f"  {edgephi_command('run', output, 'set a timer for ten minutes')}\n"
        f"  {edgephi_command('plan', 'phi-3.5-mini', '--target', 'cpu')}"
    )


def _say(text: str) -> None:
    say(text, err=True)


def _is_demo_bundle(folder: Path) -> bool:
    """Whether the folder is what an earlier quickstart has written, and holds nothing else."""
    from edgephi.bundle.files import check_files
    from edgephi.bundle.manifest import read_manifest
    from edgephi.errors import BadBundleError

    try:
        manifest = read_manifest(folder)
        check_files(folder, manifest, quick=True)
    except BadBundleError:
        return False
    return manifest.name == "demo-cpu" and not folder.is_symlink()
