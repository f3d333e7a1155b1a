"""The beginning of a change to a store that may not be there yet: one process makes it, others wait."""

import contextlib

from edgephi.steps import Step, silent
from edgephi.store.disk.durable import make_folder
from edgephi.store.disk.file_system import check_file_system
from edgephi.store.disk.layout import Layout
from edgephi.store.disk.lock import StoreLock
from edgephi.store.recover import make_store, recover_locked


def lock_store(layout: Layout, purpose: str, *, wait_seconds: float = 0.0, step: Step = silent) -> StoreLock:
    """Lock the store, made where there is none, and put it right.

    Raises StoreBusyError as the lock does, and NotSupportedError where no store can be: then nothing is left.
    """
    while True:
        is_new_folder = not layout.root.is_dir()
        if is_new_folder:
            make_folder(layout.root)
        try:
            lock = StoreLock.take(layout, purpose, wait_seconds=wait_seconds, step=step)
        except FileNotFoundError:  # another flash made the folder, was refused and has removed it
            if layout.root.is_dir():
                raise
            continue
        break
    is_refused = False
    try:
        is_refused = not layout.state.exists()  # which a disk that fails may not tell
        check_file_system(layout)
        is_refused = False
        make_store(layout)
        recover_locked(layout)
    except BaseException:
        if is_refused:  # those who wait find their lock's file gone, and begin anew
            with contextlib.suppress(OSError):
                layout.lock.unlink()
                if is_new_folder:
                    layout.root.rmdir()
        lock.close()
        raise
    return lock
