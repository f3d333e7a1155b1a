"""Whether a store has the bundle that adapters go beside: that very one, or it with other adapters.

An artifact's manifest says all of that bundle once more, its chat template and its limits for two. Beside
another one, even of the same files, it would put these back.
"""

from edgephi.bundle.adapter_artifact import is_made_for
from edgephi.bundle.manifest import Manifest
from edgephi.errors import BadBundleError
from edgephi.store.disk.layout import Layout
from edgephi.store.generations import manifests


def check_base(layout: Layout, manifest: Manifest) -> None:
    """Raise BadBundleError when no generation is what the manifest's adapters were made for."""
    base = manifest.base
    if base is None:
        return
    others = list(manifests(layout))
    if any(is_made_for(manifest, other, digest) for digest, other in others):
        return
    same = [digest[:12] for digest, other in others if other.name == base.name]
    found = f"found it as {', '.join(same)}" if same else "found none"
    raise BadBundleError(
        f"adapters for {base.name} {base.sequence} ({base.sha256[:12]}): expected that bundle in "
        f"{layout.root}, {found}",
        hint="flash the bundle that they were made for there first, or make them again for the one that is",
    )
