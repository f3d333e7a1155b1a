"""What a box says that it has done, held against what it was sent: a box that lies is not believed."""

import dataclasses
import hashlib
import re

from edgephi.bundle.manifest import Manifest
from edgephi.commands import edgephi_command
from edgephi.errors import TransportError
from edgephi.flash.destination import Box
from edgephi.flash.source import BundleSource
from edgephi.store.install import Outcome

DIGEST = re.compile(r"[0-9a-f]{64}")
"""The sha256 of a manifest, which is the name of its bundle in a store."""


def check_outcome(
    outcome: Outcome,
    box: Box,
    source: BundleSource,
    manifest: Manifest,
    *,
    total_bytes: int,
    asked_bytes: int,
) -> None:
    """Raise TransportError unless a result can be that of this bundle.

    `total_bytes` are those of the bundle, `asked_bytes` those that the box asked for over this connection.
    """

    def check(what: str, expected: object, found: object, *, holds: bool | None = None) -> None:
        if not (expected == found if holds is None else holds):
            raise TransportError(
                f"{box}: its result: expected {what} {expected}, found {found}",
                hint=f"see what is there: `{edgephi_command('status', box.url)}` says it; "
                "use the same edgephi on both sides",
            )

    check("the bundle", hashlib.sha256(source.manifest).hexdigest()[:12], outcome.digest[:12])
    check("the bundle", hashlib.sha256(source.manifest).hexdigest(), outcome.digest)
    check("the name", manifest.name, outcome.name)
    check("release", manifest.sequence, outcome.sequence)
    check(
        "the digest of a bundle before it, or",
        None,
        outcome.previous,
        holds=outcome.previous is None or bool(DIGEST.fullmatch(outcome.previous)),
    )
    check("bytes in all", total_bytes, outcome.sent_bytes + outcome.saved_bytes)
    check(
        "bytes sent, at most", asked_bytes, outcome.sent_bytes, holds=0 <= outcome.sent_bytes <= asked_bytes
    )
    check("bytes saved, 0 or more, of", total_bytes, outcome.saved_bytes, holds=outcome.saved_bytes >= 0)
    check(
        "no signer of a bundle without signature:",
        None,
        outcome.signer,
        holds=outcome.signer is None or source.signature is not None,
    )
    is_same = outcome.was_current and not outcome.sent_bytes and outcome.probe is None
    check("a change, as something was done, not", "none", "none", holds=outcome.changed or is_same)
    probe = outcome.probe
    if probe is None:
        check("a probe, as it was not active before, not", "none", "none", holds=outcome.was_current)
        return
    expected = manifest.probe.expected if manifest.probe else ""
    check("a probe that begins", repr(expected), repr(probe.text[:80]), holds=probe.text.startswith(expected))
    numbers = [
        value for value in dataclasses.astuple(probe) if isinstance(value, int | float) and not value >= 0
    ]
    check("numbers of a probe", "0 or more", numbers, holds=not numbers)
