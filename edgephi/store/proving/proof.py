"""Having a generation answer on this machine: in the Python that has its engine, or in one of its wheels."""

from collections.abc import Callable

from edgephi.bundle.manifest import Manifest
from edgephi.steps import Step
from edgephi.store.disk.layout import Layout
from edgephi.store.environments.environment import Runtime
from edgephi.store.environments.trial import python_on_trial
from edgephi.store.proving.probe import ProbeResult, prove


def prove_generation(
    layout: Layout,
    digest: str,
    manifest: Manifest,
    runtime: Runtime,
    *,
    step: Step,
    confirm: Callable[[], None],
    limit_seconds: float | None = None,
) -> ProbeResult:
    """Have a generation generate, with what will run it, which is made first where it must be.

    `confirm` is asked after that, which may have taken long, and raises what the bundle is refused for.
    Raises ProbeFailedError when it does not answer as its manifest says, and as `python_on_trial` does.
    """
    with python_on_trial(layout, digest, manifest, runtime, step) as python:
        with step("probe", 0):
            result = prove(
                layout.generation(digest), manifest, interpreter=python, limit_seconds=limit_seconds
            )
        confirm()
        return result
