"""How a damaged generation of a store is mended: by commands that do that as they stand."""

from typing import TYPE_CHECKING

from edgephi.commands import edgephi_command, place
from edgephi.guards.visible import visible

if TYPE_CHECKING:
    from edgephi.store.status import GenerationStatus


def mending(root: str, damaged: "GenerationStatus", *, keys_problem: str = "") -> str:
    """What to do about a damaged generation of the store at `root`; see `StoreStatus` for `keys_problem`."""
    store = place(root)
    which = f"{visible(damaged.name)} release {damaged.sequence}" if damaged.name else "the same bundle"
    again = f"flash {which} again, of which only what has changed is sent"
    if damaged.role == "other":
        return f"remove what nothing needs: `{edgephi_command('gc', store)}`"
    if keys_problem:
        return f"add the keys again first: `{edgephi_command('trust', 'add', store, 'NAME.pub')}`"
    if damaged.unvouched:
        command = edgephi_command("flash", "BUNDLE", store)
        return f"no key vouches for it: flash another one, or sign that one and flash it again: `{command}`"
    if damaged.role == "current":
        return f"{again}: `{edgephi_command('flash', 'BUNDLE', store)}`"
    # What is not active may be an older release, and what is flashed becomes active.
    flash = edgephi_command("flash", "BUNDLE", store, "--allow-downgrade")
    back = edgephi_command("rollback", store)
    return f"{again}: `{flash}`; it is active then, and this goes back: `{back}`"
