"""The environment of a generation that has to answer: one that is there and whole, or a new one.

A new one has no name that anything would find until its bundle has answered. What is refused leaves none.
"""

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from edgephi.bundle.manifest import Manifest
from edgephi.errors import BadBundleError
from edgephi.steps import Step
from edgephi.store.disk.durable import syncing_all
from edgephi.store.disk.free_space import check_free_disk
from edgephi.store.disk.layout import Layout
from edgephi.store.environments.environment import Runtime
from edgephi.store.environments.folders import (
    adopt,
    devices_python_of,
    environment_of,
    folder_of,
    link,
    prepare_folder,
    run_in,
    trial_folder,
    unlink,
)
from edgephi.store.environments.record import (
    RECORD_NAME,
    changes_in,
    read_environment_record,
    wheels_of,
    write_environment_record,
)
from edgephi.store.environments.wheels import SealedWheel, make_environment, unpack_wheels

_PIN = re.compile(r"--hash=sha256:([0-9a-f]{64})(?![0-9a-f])", re.ASCII)


@contextlib.contextmanager
def python_on_trial(
    layout: Layout, digest: str, manifest: Manifest, runtime: Runtime, step: Step
) -> Iterator[str]:
    """The Python to have a generation answer in. What is made for that stays only if the block ends well.

    Raises BadBundleError for a wheel that is none, or not the one of the manifest and of the requirements,
    DoesNotFitError when the disk has no room for what they hold.
    """
    if runtime.wheelhouse is None:
        assert runtime.interpreter is not None  # noqa: S101 - there is the one or the other
        yield runtime.interpreter
        _leave_others(layout, digest, runtime)
        run_in(layout, digest, Path(runtime.interpreter).absolute())
        return
    prepare_folder(layout)
    folder = folder_of(layout, runtime.key)
    if not changes_in(folder):
        yield _python(folder)
    else:
        trial = trial_folder(layout, runtime.key)
        shutil.rmtree(trial, ignore_errors=True)
        try:
            with syncing_all(layout.environments) as sync_all:
                _make(trial, layout, digest, manifest, runtime, step=step)
                yield _python(trial)
                sync_all()
            adopt(layout, runtime.key)
        finally:
            shutil.rmtree(trial, ignore_errors=True)
    link(layout, digest, runtime.key)


def is_ready(layout: Layout, digest: str, runtime: Runtime) -> bool:
    """Whether a generation has already what will run it: the very environment, as it was made.

    A Python of the device must still be there.
    """
    if runtime.wheelhouse is None:
        noted = devices_python_of(layout, digest)
        return noted is None or noted.is_file()
    folder = environment_of(layout, digest)
    return folder is not None and folder.name == runtime.key and not changes_in(folder)


def _make(
    trial: Path, layout: Layout, digest: str, manifest: Manifest, runtime: Runtime, *, step: Step
) -> None:
    """Make an environment of a generation's wheels, with the record of what it holds."""
    bundle = layout.generation(digest)
    wheelhouse = runtime.wheelhouse
    assert wheelhouse is not None  # noqa: S101 - see `python_on_trial`
    wheels = wheels_of(manifest, wheelhouse)
    _check_pins(bundle / wheelhouse.requirements, wheels)
    with step("install the runtime", wheelhouse.installed_bytes) as done:
        make_environment(trial, runtime.base, wheelhouse.python)
        (trial / RECORD_NAME).touch()  # no wheel may bring one
        files = unpack_wheels(
            [SealedWheel(bundle / wheelhouse.folder / name, sha256) for name, sha256 in wheels.items()],
            trial,
            wheelhouse.python,
            check_room=lambda size: check_free_disk(layout, size, what="what the wheels hold"),
            progress=done,
        )
        write_environment_record(
            trial, vouched_by=runtime.vouched_by, python=wheelhouse.python, wheels=wheels, files=files
        )


def _check_pins(requirements: Path, wheels: dict[str, str]) -> None:
    """See that pip, which goes by the requirements, would take these very wheels."""
    pinned = set(_PIN.findall(requirements.read_text(errors="replace")))
    for name, sha256 in wheels.items():
        if sha256 not in pinned:
            raise BadBundleError(
                f"{requirements}: expected the sha256 of each wheel, found none of {name} ({sha256[:12]}…)",
                hint="build the bundle again",
            )


def _leave_others(layout: Layout, digest: str, runtime: Runtime) -> None:
    """A generation for which somebody else vouches now no longer runs in what was made before that."""
    folder = environment_of(layout, digest)
    record = read_environment_record(folder) if folder else None
    if record is not None and record.vouched_by != runtime.vouched_by:
        unlink(layout, digest)


def _python(folder: Path) -> str:
    return str(folder / "bin" / "python")
