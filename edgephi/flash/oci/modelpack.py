"""What the artifact of a bundle says, by the CNCF ModelPack specification: one raw layer a file.

https://github.com/modelpack/model-spec (v1): an OCI manifest of its artifact type, a config that describes
the model to people and tools, and layers that say in an annotation where their file belongs. Raw means that
the blob is the file, byte for byte: its digest is the sha256 of `bundle.json`, and any range of the one is
that range of the other, so that a device can fetch the chunks that it lacks. The same bundle always makes the
same artifact.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgephi.bundle.envelope import largest_envelope
from edgephi.bundle.manifest import (
    LARGEST_MANIFEST_BYTES,
    MANIFEST_NAME,
    MODEL_SIGNING_NAME,
    SIGNATURE_NAME,
    SIGNATURE_NAMES,
    WHEELS_FOLDER,
    Manifest,
)
from edgephi.commands import edgephi_command
from edgephi.engines.facts.registry import known_engines
from edgephi.errors import BadBundleError
from edgephi.flash.oci.manifests import MANIFEST_TYPE, digest_of

ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
WEIGHT_TYPE = "application/vnd.cncf.model.weight.v1.raw"
SETTINGS_TYPE = "application/vnd.cncf.model.weight.config.v1.raw"
CODE_TYPE = "application/vnd.cncf.model.code.v1.raw"
DOCUMENT_TYPE = "application/vnd.cncf.model.doc.v1.raw"
PATH_ANNOTATION = "org.cncf.model.filepath"
_METADATA_ANNOTATION = "org.cncf.model.file.metadata+json"
# Other tools, such as `oras pull`, know a file by this one.
_TITLE_ANNOTATION = "org.opencontainers.image.title"
_CREATED_ANNOTATION = "org.opencontainers.image.created"

_RAW_LAYER = re.compile(r"application/vnd\.cncf\.model\.[a-z.]+\.v1\.raw")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_SETTINGS_ENDINGS = (".json", ".jinja", ".txt", ".toml", ".yaml", ".xml")
_DOCUMENT_NAMES = ("README", "LICENSE", "NOTICE", "Modelfile")
# These are read whole before anybody has vouched for them.
_LARGEST_READ_BYTES = {
    MANIFEST_NAME: LARGEST_MANIFEST_BYTES,
    SIGNATURE_NAME: largest_envelope(LARGEST_MANIFEST_BYTES),
    MODEL_SIGNING_NAME: 2 * LARGEST_MANIFEST_BYTES,
}
_REGULAR_FILE = ord("0")  # as a tar archive says it
_HINT = f"give what `{edgephi_command('push')}` wrote, or push it again"


@dataclass(frozen=True)
class Layer:
    """One file of a bundle in a registry: its path in the bundle, and the blob that it is."""

    path: str
    digest: str
    size: int


@dataclass(frozen=True)
class Artifact:
    """A bundle as a registry keeps it: the bytes of its manifest and of its config, and its files."""

    manifest: bytes
    config: bytes
    layers: tuple[Layer, ...]

    @property
    def digest(self) -> str:
        """The name of the whole artifact."""
        return digest_of(self.manifest)


def make_artifact(bundle: Path, manifest: Manifest) -> Artifact:
    """The artifact of the bundle in folder `bundle`; reads its small files only."""
    sizes = [(entry.path, f"sha256:{entry.sha256}", entry.size) for entry in manifest.files]
    for name in (MANIFEST_NAME, *sorted(SIGNATURE_NAMES)):
        if (bundle / name).is_file():
            data = (bundle / name).read_bytes()
            sizes.append((name, digest_of(data), len(data)))
    layers = tuple(Layer(*facts) for facts in sorted(sizes))
    config = _encode(_config(manifest, layers))
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
        "layers": [_descriptor(layer, manifest.created) for layer in layers],
        "annotations": {
            _CREATED_ANNOTATION: manifest.created,
            _TITLE_ANNOTATION: manifest.name,
            "org.opencontainers.image.version": str(manifest.sequence),
        },
    }
    return Artifact(_encode(document), config, layers)


def read_layers(data: bytes, *, where: str) -> dict[str, Layer]:
    """The layers of a ModelPack artifact by their paths. Raises BadBundleError when it is none of ours."""
    try:
        document = json.loads(data)
        kind = document.get("artifactType") or document["config"]["mediaType"]
        listed = document["layers"]
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        raise BadBundleError(
            f"{where}: expected the manifest of an artifact, found other data", hint=_HINT
        ) from None
    if kind not in (ARTIFACT_TYPE, CONFIG_TYPE):
        raise BadBundleError(
            f"{where}: expected an artifact of type {ARTIFACT_TYPE}, found {kind!r}", hint=_HINT
        )
    layers: dict[str, Layer] = {}
    for place, entry in enumerate(listed if isinstance(listed, list) else [listed]):
        layer = _read_layer(entry, where=f"{where}: layers[{place}]")
        if layer.path in layers:
            raise BadBundleError(f"{where}: {layer.path} is listed twice", hint=_HINT)
        layers[layer.path] = layer
    if MANIFEST_NAME not in layers:
        raise BadBundleError(f"{where}: expected {MANIFEST_NAME} among its files, found none", hint=_HINT)
    for name in (MANIFEST_NAME, *sorted(SIGNATURE_NAMES & layers.keys())):
        if layers[name].size > _LARGEST_READ_BYTES[name]:
            raise BadBundleError(
                f"{where}: {name}: expected at most {_LARGEST_READ_BYTES[name]} bytes, "
                f"found {layers[name].size}",
                hint=_HINT,
            )
    return layers


def check_layers(layers: dict[str, Layer], manifest: Manifest, *, where: str) -> None:
    """Hold an artifact's layers against `bundle.json`: every file with its digest, and no other.

    After that, a blob with the right digest is the right file. Raises BadBundleError.
    """
    for entry in manifest.files:
        layer = layers.get(entry.path)
        expected = (f"sha256:{entry.sha256}", entry.size)
        if layer is None or (layer.digest, layer.size) != expected:
            found = "none" if layer is None else f"{layer.digest} of {layer.size} bytes"
            raise BadBundleError(
                f"{where}: {entry.path}: expected {expected[0]} of {entry.size} bytes, found {found}",
                hint=_HINT,
            )
    known = {entry.path for entry in manifest.files} | {MANIFEST_NAME} | SIGNATURE_NAMES
    for path in sorted(layers.keys() - known):
        raise BadBundleError(
            f"{where}: expected only the files of {MANIFEST_NAME}, found {path!r} too", hint=_HINT
        )


def _config(manifest: Manifest, layers: tuple[Layer, ...]) -> dict[str, Any]:
    """The document that describes the model: `config-schema.json` of the specification."""
    quant = manifest.quant
    return {
        "descriptor": {
            "createdAt": manifest.created,
            "family": manifest.model.variant,
            "name": manifest.name,
            "version": str(manifest.sequence),
            "title": f"{manifest.model.id} for {manifest.target.name}",
            "revision": manifest.model.revision,
        },
        "config": {
            "architecture": "transformer",
            "format": _format(manifest.target.engine),
            "paramSize": _parameters(manifest.model.parameters),
            "precision": f"int{quant.bits}",
            "quantization": quant.method,
            "capabilities": {"inputTypes": ["text"], "outputTypes": ["text"]},
        },
        "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
    }


def _format(engine: str) -> str:
    """What an engine's artifact is called; of an engine that this edgephi does not know, its own name."""
    facts = known_engines().get(engine)
    return engine if facts is None else facts.artifact_format


def _parameters(count: int) -> str:
    """A number of parameters as the specification writes it: 3821079552 -> "3.8B"."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return f"{count / 1000:.1f}K"


def _descriptor(layer: Layer, created: str) -> dict[str, Any]:
    # Owner, mode and time are constants, so that they do not change the artifact.
    metadata = {
        "name": layer.path.rpartition("/")[2],
        "mode": 0o644,
        "uid": 0,
        "gid": 0,
        "size": layer.size,
        "mtime": created,
        "typeflag": _REGULAR_FILE,
    }
    return {
        "mediaType": _media_type(layer.path),
        "digest": layer.digest,
        "size": layer.size,
        "annotations": {
            PATH_ANNOTATION: layer.path,
            _METADATA_ANNOTATION: json.dumps(metadata, separators=(",", ":")),
            _TITLE_ANNOTATION: layer.path,
        },
    }


def _media_type(path: str) -> str:
    """What kind of file a layer is, as the specification sorts them."""
    name = path.rpartition("/")[2]
    if path.startswith(f"{WHEELS_FOLDER}/"):
        return CODE_TYPE
    if name.startswith(_DOCUMENT_NAMES) or name.endswith(".md"):
        return DOCUMENT_TYPE
    return SETTINGS_TYPE if name.endswith(_SETTINGS_ENDINGS) else WEIGHT_TYPE


def _read_layer(entry: Any, *, where: str) -> Layer:
    """One entry of `layers`, whoever wrote it."""
    entry = entry if isinstance(entry, dict) else {}
    kind, digest, size = entry.get("mediaType"), entry.get("digest"), entry.get("size")
    annotations = entry.get("annotations")
    path = annotations.get(PATH_ANNOTATION) if isinstance(annotations, dict) else None
    problem = ""
    if not isinstance(kind, str) or not _RAW_LAYER.fullmatch(kind):
        problem = f"a raw layer of a model, found {str(kind)[:80]!r}"
    elif not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        problem = f"a sha256 digest, found {str(digest)[:80]!r}"
    elif not isinstance(size, int) or isinstance(size, bool) or size < 0:
        problem = f"a size in bytes, found {str(size)[:80]!r}"
    elif not isinstance(path, str) or not path:
        problem = f"the path of its file in {PATH_ANNOTATION}, found {str(path)[:80]!r}"
    else:
        return Layer(path, digest, size)
    raise BadBundleError(f"{where}: expected {problem}", hint=_HINT)


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
