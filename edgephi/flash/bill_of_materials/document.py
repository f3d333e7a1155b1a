"""A bundle's bill of materials by CycloneDX 1.6, made from the bundle alone.

https://cyclonedx.org/docs/1.6/json/. The same bundle and the same edgephi make the same bytes, wherever and
whenever that is: the serial number is derived from both, and the time is that at which the bundle was sealed.
What it says is vouched for by `bundle.json`, whose sha256 it names: it reads that file, and of the others
only those that it has held against it.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

import edgephi
from edgephi.bundle.adapter_artifact import entries_in
from edgephi.bundle.files import check_files
from edgephi.bundle.manifest import MANIFEST_NAME, WHEELS_FOLDER, Manifest, decode_manifest, read_manifest
from edgephi.commands import PROGRAM
from edgephi.errors import BadBundleError
from edgephi.flash.bill_of_materials.model_card import adapter_card, model_card, properties
from edgephi.flash.bill_of_materials.wheels import WHEEL_SUFFIX, wheel_component

# No path of a bundle has a colon, so that no file can be taken for one of these.
_BUNDLE_REFERENCE = "edgephi:bundle"
_BASE_REFERENCE = "edgephi:base"
# The names of the hub are OWNER/NAME at a commit; folders of the user's are neither.
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)


def bill_of_materials(bundle: Path) -> bytes:
    """The bytes of the bill of the bundle in folder `bundle`: ASCII, with a final newline.

    Of a folder that holds adapters alone it is theirs, and names the bundle that they belong to. Raises
    BadBundleError when the folder is not what its manifest says.
    """
    read_manifest(bundle)  # says what is wrong with a folder that is none
    data = (bundle / MANIFEST_NAME).read_bytes()
    manifest = decode_manifest(data, where=str(bundle / MANIFEST_NAME))
    sha256 = hashlib.sha256(data).hexdigest()
    own = Component(type=ComponentType.APPLICATION, name=PROGRAM, version=edgephi.__version__)
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"sha256:{sha256} {PROGRAM} {edgephi.__version__}"),
        components=list(_parts(bundle, manifest)),
    )
    bom.metadata.timestamp = _created(manifest, bundle)
    bom.metadata.tools.components.add(own)
    bom.metadata.component = _whole(manifest, sha256)
    bom.register_dependency(bom.metadata.component, bom.components)
    cards = {adapter.file: adapter_card(adapter) for adapter in manifest.adapters}
    cards[_BUNDLE_REFERENCE] = model_card(manifest)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    for component in (document["metadata"]["component"], *document.get("components", [])):
        if component["bom-ref"] in cards:
            component["modelCard"] = cards[component["bom-ref"]]
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def _whole(manifest: Manifest, sha256: str) -> Component:
    """The bundle itself, made from the checkpoint and the adapters that were merged into it."""
    model, provenance, requires = manifest.model, manifest.provenance, manifest.requires
    facts: dict[str, dict[str, Any]] = {
        "target": {
            "name": manifest.target.name,
            "engine": manifest.target.engine,
            "provider": manifest.target.provider,
            "arch": manifest.target.arch,
        },
        "model": {
            "id": model.id,
            "revision": model.revision,
            "parameters": model.parameters,
            "active_parameters": model.active_parameters,
            "context": model.context,
        },
        "limits": {"context": manifest.limits.context},
        "requires": {"memory_bytes": requires.memory_bytes, "disk_bytes": requires.disk_bytes},
        "requires:engines": requires.engines,
        "provenance": {
            "edgephi": provenance.edgephi,
            "command": provenance.command,
            "exporter": provenance.exporter,
        },
    }
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=manifest.name,
        version=str(manifest.sequence),
        bom_ref=_BUNDLE_REFERENCE,
        description=f"{model.id} for {manifest.target.name}",
        hashes=[_sha256(sha256)],
        pedigree=Pedigree(ancestors=list(_ancestors(manifest))),
        properties=[each for topic, named in facts.items() for each in _properties(topic, named)],
    )


def _ancestors(manifest: Manifest) -> Iterator[Component]:
    """What the weights were made from, with the files that were read."""
    model = manifest.model
    inputs = manifest.provenance.inputs
    of_adapters = {path for path in inputs for each in model.adapters if path.startswith(f"{each.id}/")}
    own = {path: sha256 for path, sha256 in inputs.items() if path not in of_adapters}
    yield _source(model.id, model.revision, own)
    for each in model.adapters:
        files = {path: sha256 for path, sha256 in inputs.items() if path.startswith(f"{each.id}/")}
        yield _source(each.id, each.revision, files, {"scale": each.scale})


def _source(
    name: str, revision: str, files: dict[str, str], facts: dict[str, Any] | None = None
) -> Component:
    """A checkpoint or an adapter; one of the hub by its package URL."""
    purl = None
    if _HUB_NAME.fullmatch(name) and _COMMIT.fullmatch(revision):
        owner, _, short = name.partition("/")
        purl = PackageURL("huggingface", owner, short, revision)
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=name,
        version=revision,
        purl=purl,
        components=[
            Component(type=ComponentType.FILE, name=path, hashes=[_sha256(sha256)])
            for path, sha256 in files.items()
        ],
        properties=_properties("adapter", facts or {}),
    )


def _parts(bundle: Path, manifest: Manifest) -> Iterator[Component]:
    """Every file of the folder; wheels are libraries, and adapters models."""
    entries = entries_in(bundle, manifest)
    check_files(bundle, manifest, quick=True, entries=entries)
    adapters = {adapter.file: adapter for adapter in manifest.adapters}
    for entry in entries:
        adapter = adapters.get(entry.path)
        if entry.path.startswith(f"{WHEELS_FOLDER}/") and entry.path.endswith(WHEEL_SUFFIX):
            yield wheel_component(bundle, entry)
            continue
        facts = {} if adapter is None else vars(adapter)
        yield Component(
            type=ComponentType.FILE if adapter is None else ComponentType.MACHINE_LEARNING_MODEL,
            name=entry.path,
            version=None if adapter is None else adapter.revision,
            bom_ref=entry.path,
            hashes=[_sha256(entry.sha256)],
            properties=_properties("adapter", {key: facts[key] for key in ("name", "id", "scale") if facts}),
        )
    if len(entries) < len(manifest.files) and manifest.base is not None:
        yield Component(
            type=ComponentType.MACHINE_LEARNING_MODEL,
            name=manifest.base.name,
            version=str(manifest.base.sequence),
            bom_ref=_BASE_REFERENCE,
            hashes=[_sha256(manifest.base.sha256)],
        )


def _created(manifest: Manifest, bundle: Path) -> datetime:
    try:
        created = datetime.fromisoformat(manifest.created)
    except ValueError:
        raise BadBundleError(
            f"{bundle / MANIFEST_NAME}: created: expected a time by ISO 8601, found {manifest.created!r:.80}",
            hint="build the bundle again",
        ) from None
    return created if created.tzinfo is not None else created.replace(tzinfo=UTC)


def _properties(topic: str, facts: dict[str, Any]) -> list[Property]:
    return [Property(**each) for each in properties(topic, facts)]


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)
