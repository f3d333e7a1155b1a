"""Having a generation answer on this machine: in the Python that has its engine, or in one of its wheels."""

from edgephi.manifest import Manifest
from edgephi.steps import Step
from edgephi.store.environment import Runtime, prepare
from edgephi.store.layout import Layout
from edgephi.store.probe import ProbeResult, prove


def prove_generation(
    layout: Layout,
    digest: str,
    manifest: Manifest,
    runtime: Runtime,
    *,
    step: Step,
    limit_seconds: float | None = None,
) -> ProbeResult:
    """Have a generation generate, with what will run it, which is made first where it must be.

    Raises ProbeFailedError when it does not answer as its manifest says, BadBundleError for a bad wheel.
    """
    bundle = layout.generation(digest)
    if runtime.interpreter is None:
        with step("install the runtime", runtime.needs_bytes) as done:
            python = prepare(layout, runtime, bundle, done)
    else:
        python = runtime.interpreter
    with step("probe", 0):
        return prove(bundle, manifest, interpreter=python, limit_seconds=limit_seconds)
