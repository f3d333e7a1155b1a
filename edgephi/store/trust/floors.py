"""Against roll-back by a stranger: how old a release a store still takes.

A signature says who made a bundle, not that it is the newest: an old release with a known weakness is as
well signed as ever. So a store remembers two numbers for each bundle name, which never fall:

- the *sequence floor*, the newest release that was ever committed. An older one needs `--allow-downgrade`,
  which is the word of whoever operates the box;
- the *security floor*, which only a signed manifest raises, with its `security_floor`. Nothing goes below it:
  that is the word of whoever holds the key.
"""

from dataclasses import dataclass

from edgephi.bundle.manifest import Manifest
from edgephi.errors import BadBundleError


@dataclass(frozen=True)
class Floors:
    """The lowest sequences of one bundle name that a store takes: by itself, and with `--allow-downgrade`."""

    sequence: int = 0
    security: int = 0


def check_floors(manifest: Manifest, floors: Floors, *, allow_downgrade: bool) -> None:
    """Refuse a release that is too old. Raises BadBundleError. The same release again is welcome."""
    _check_security(manifest, floors)
    if manifest.sequence < floors.sequence and not allow_downgrade:
        raise BadBundleError(
            f"{manifest.name}: expected release {floors.sequence} or newer, which this store has had, "
            f"found release {manifest.sequence}",
            hint="flash a newer release, or add --allow-downgrade if the older one is what you want",
        )


def check_rollback(manifest: Manifest, floors: Floors) -> None:
    """Refuse to go back to a release below the security floor. Raises BadBundleError."""
    _check_security(manifest, floors)


def raised(manifest: Manifest, floors: Floors, *, is_signed: bool) -> Floors:
    """The floors once this release is committed. An unsigned one says nothing about security."""
    security = manifest.security_floor if is_signed else 0
    return Floors(max(floors.sequence, manifest.sequence), max(floors.security, security))


def _check_security(manifest: Manifest, floors: Floors) -> None:
    if manifest.sequence < floors.security:
        raise BadBundleError(
            f"{manifest.name}: expected release {floors.security} or newer, the security floor that a signed "
            f"release has set, found release {manifest.sequence}",
            hint="flash a newer release; not even --allow-downgrade goes below the security floor",
        )
