"""What a device asks a new bundle before it trusts it."""

import math
from collections.abc import Collection
from dataclasses import dataclass

from edgephi.bundle.document import HINT
from edgephi.errors import BadBundleError

LARGEST_PROBE_TOKENS = 4096


@dataclass(frozen=True)
class Probe:
    """What a device asks a new bundle before it trusts it: the greedy answer must begin with `expected`.

    `expected` ends before the first token that was no clear choice, so that another processor's rounding does
    not change it; it may be empty. At most `max_tokens` are generated, at the speed of
    `minimum_tokens_per_second` or more.
    """

    prompt: str
    expected: str
    max_tokens: int
    minimum_tokens_per_second: float = 0.0


@dataclass(frozen=True)
class PictureProbe:
    """The same about a picture, of a bundle that sees: `picture` is one of the bundle's files."""

    prompt: str
    picture: str
    expected: str
    max_tokens: int


def check_picture_probe(probe: PictureProbe | None, paths: Collection[str], *, where: str) -> None:
    """Raise BadBundleError when nothing could be asked about a picture; `paths` are the bundle's files."""
    if probe is None:
        return
    check_probe(Probe(probe.prompt, probe.expected, probe.max_tokens), where=f"{where}: picture")
    if probe.picture not in paths:
        raise BadBundleError(
            f"{where}: picture_probe: expected {probe.picture[:80]!r} among the files, found none", hint=HINT
        )


def check_probe(probe: Probe | None, *, where: str) -> None:
    """Raise BadBundleError when no answer could be held against the probe."""
    if probe is None:
        return
    if not probe.prompt:
        raise BadBundleError(f"{where}: probe: expected a prompt, found an empty one", hint=HINT)
    if not 1 <= probe.max_tokens <= LARGEST_PROBE_TOKENS:
        raise BadBundleError(
            f"{where}: probe: expected max_tokens of 1 to {LARGEST_PROBE_TOKENS}, found {probe.max_tokens}",
            hint=HINT,
        )
    speed = probe.minimum_tokens_per_second
    if not (math.isfinite(speed) and speed >= 0):
        raise BadBundleError(
            f"{where}: probe: expected a minimum_tokens_per_second of 0 or more, found {speed}", hint=HINT
        )
