"""Which generations of a store no key vouches for: a key may have come, gone or been lost since they came."""

from dataclasses import dataclass

from edgephi.errors import EdgephiError
from edgephi.store.disk.layout import Layout
from edgephi.store.generations import installed, manifest_bytes, manifest_of, signature_bytes
from edgephi.store.recover import read_settled_state
from edgephi.store.state import Role, State, role_of
from edgephi.store.trust.authenticate import authenticate
from edgephi.store.trust.trusted_keys import read_trusted_keys


@dataclass(frozen=True)
class Unvouched:
    """A generation that would not be taken now, and the reason. `name` is "" when it cannot be read."""

    digest: str
    role: Role
    name: str
    sequence: int
    reason: str


def unvouched(layout: Layout) -> tuple[Unvouched, ...]:
    """The generations that no key vouches for; none in a store that asks for no key."""
    state = read_settled_state(layout)
    found = []
    for digest in installed(layout):
        _, reason = vouched(layout, digest, state)
        if reason:
            try:
                manifest = manifest_of(layout, digest)
                name, sequence = manifest.name, manifest.sequence
            except EdgephiError:
                name, sequence = "", 0
            found.append(Unvouched(digest, role_of(state, digest), name, sequence, reason))
    return tuple(found)


def vouched(layout: Layout, digest: str, state: State) -> tuple[str | None, str]:
    """The name of the key that vouches for a generation, if one is asked for, and why none does, else "".

    What cannot be told here, because no library checks signatures, nobody vouches for.
    """
    try:
        data, signature = manifest_bytes(layout, digest), signature_bytes(layout, digest)
        return authenticate(layout.trust, data, signature, required=state.keys_required), ""
    except EdgephiError as refused:
        needs_key = bool(keys_problem(layout, state)) or bool(read_trusted_keys(layout.trust))
        return None, refused.message if needs_key else ""


def keys_problem(layout: Layout, state: State) -> str:
    """Why a store takes no bundle at all: its keys are lost, or cannot be read; "" when that is not so."""
    try:
        read_trusted_keys(layout.trust, required=state.keys_required)
    except EdgephiError as problem:
        return problem.message
    return ""
