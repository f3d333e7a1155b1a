"""`bundle.json`: the manifest of a bundle, and the one contract that crosses from builder to device.

A bundle is a folder with this manifest and a `model/` folder that the engine's own loader opens as it is.
Both sides of the wall read this module, so it needs the standard library only. All sizes are bytes.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from edgephi.bundle.certificate import Certificate
from edgephi.bundle.chunks import FileEntry, check_chunks
from edgephi.bundle.document import HINT, decode_document, encode_document
from edgephi.bundle.image_tokens import ImageFacts, check_images
from edgephi.bundle.paths import collision, path_problem
from edgephi.bundle.probe import PictureProbe, Probe, check_picture_probe, check_probe
from edgephi.bundle.switched_adapter import BaseBundle, SwitchedAdapter, check_adapters
from edgephi.commands import edgephi_command
from edgephi.errors import BadBundleError
from edgephi.guards.visible import visible

SCHEMA = "edgephi.bundle/1"
MANIFEST_NAME = "bundle.json"
ARTIFACT_FOLDER = "model"
TOKENIZER_FILE = "tokenizer.json"  # in that folder, whatever the engine: the checkpoint's own
WHEELS_FOLDER = "wheels"
REQUIREMENTS_NAME = "requirements.txt"
OWN_EXPORTER = "edgephi"
SIGNATURE_NAME = "bundle.dsse.json"
MODEL_SIGNING_NAME = "bundle.model-signing.json"
SIGNATURE_NAMES = frozenset({SIGNATURE_NAME, MODEL_SIGNING_NAME})
"""What may lie beside the manifest without being one of its files, because it is made from the manifest."""

LARGEST_MANIFEST_BYTES = 16 << 20
"""Enough for the chunks of 200 GB; a device reads no more of what a stranger sends."""

_LARGEST_FILE_BYTES = 1 << 50
_LARGEST_FILE_WITHOUT_CHUNKS = 1 << 36
LONGEST_NAME = 200
_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){0,3}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class AdapterFacts:
    """An adapter that is part of the bundle's weights, its low-rank changes multiplied by `scale`."""

    id: str
    revision: str
    scale: float = 1.0

    @property
    def described(self) -> str:
        """As people are told of it, in one line."""
        strength = "" if self.scale == 1 else f", {self.scale:g} times as strong"
        return visible(f"adapter {self.id} at {self.revision}{strength}")


@dataclass(frozen=True)
class ModelFacts:
    """Which checkpoint the bundle was made from. `context` is what the checkpoint was trained for.

    `adapters` were merged into it, in this order. `active_parameters` of a mixture of experts are those that
    one token is computed with; None: all. `images` says how a model that sees has them; None: it does not.
    """

    id: str
    revision: str
    variant: str
    parameters: int
    context: int
    adapters: tuple[AdapterFacts, ...] = ()
    active_parameters: int | None = None
    images: ImageFacts | None = None


@dataclass(frozen=True)
class TargetFacts:
    """What the bundle was made for."""

    name: str
    engine: str
    provider: str
    arch: tuple[str, ...]


@dataclass(frozen=True)
class CalibrationFacts:
    """What the inputs of the matrices were measured on: a text, and so many tokens of it.

    `importance_sha256` is of what was measured, by which two builds know that they weighed alike.
    """

    text: str
    text_sha256: str
    tokens: int
    importance_sha256: str


@dataclass(frozen=True)
class QuantFacts:
    """How the weights were quantised; `bits_per_weight` counts all that is stored.

    `symmetric` is about portable formats; native ones have the groups that the engine has.
    `mixture` is that of K-quants: "medium" or "small".
    `kept` names the matrices that have more bits than the others of their kind: 8, or the next better of
    llama.cpp's K-quants. `calibration` is there when the method looked at the model's activations.
    """

    bits: int
    group_size: int
    symmetric: bool
    method: str
    embedding_bits: int
    head_bits: int
    bits_per_weight: float
    formats: str = "portable"
    mixture: str = "medium"
    kept: tuple[str, ...] = ()
    calibration: CalibrationFacts | None = None


@dataclass(frozen=True)
class ChatFacts:
    """The Jinja chat template that renders a conversation, and every token id that ends an answer.

    `source` is the checkpoint's file that the template comes from, or the name of edgephi's own. `variables`
    are the texts that the template finds under names such as `bos_token`. `system` is the system message of
    conversations that bring none.
    """

    template: str
    stop_token_ids: tuple[int, ...]
    source: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    system: str = ""


@dataclass(frozen=True)
class Limits:
    """`context`: the most tokens, prompt and answer together, that the bundle serves.

    A prompt of more than `whole_prefill_above` tokens must be computed in one piece, because LongRoPE uses
    other factors for it from its first token on; None when the bundle has no such length.
    """

    context: int
    whole_prefill_above: int | None = None


@dataclass(frozen=True)
class Requires:
    """What a device needs: peak memory at the full context, disk, and engine version ranges (PEP 440).

    `memory_per_token_bytes` is the part of the memory that each token of the context takes, up to
    `cached_tokens` of them: an engine may forget what has left the model's attention window. None: all do.
    `idle_bytes` are those of the artifact that no single token reads: of experts that it does not have, and
    of an image encoder.
    """

    memory_bytes: int
    disk_bytes: int
    engines: dict[str, str]
    memory_per_token_bytes: int = 0
    cached_tokens: int | None = None
    idle_bytes: int = 0


@dataclass(frozen=True)
class Provenance:
    """Where the bundle came from: edgephi's version, the command, and the sha256 of every input file.

    `exporter` wrote the artifact: edgephi itself, or an engine's own converter with its version.
    """

    edgephi: str
    command: str
    inputs: dict[str, str]
    exporter: str = OWN_EXPORTER


@dataclass(frozen=True)
class Wheelhouse:
    """Wheels in the folder `wheels/PLATFORM`, which install the runtime and its engine without a network.

    `platform` such as linux-aarch64-cp311, `python` "3.11", `glibc` the oldest that all of them work with.
    `extras` are edgephi's that are inside; `installed_bytes` is what they take on the disk when unpacked.
    """

    platform: str
    python: str
    glibc: str
    extras: tuple[str, ...]
    installed_bytes: int

    @property
    def folder(self) -> str:
        """The folder of the wheels, relative to the bundle's."""
        return f"{WHEELS_FOLDER}/{self.platform}"

    @property
    def requirements(self) -> str:
        """The file for `pip install -r`, relative to the bundle's folder."""
        return f"{self.folder}/{REQUIREMENTS_NAME}"


@dataclass(frozen=True)
class Manifest:
    """The whole of `bundle.json`. `sequence` orders the releases of one `name`, `created` is ISO 8601 UTC.

    A device that has this release, and checks signatures, takes none of that name below `security_floor`.
    With `adapters` there is a `base`: without its files, the folder is an artifact that goes beside that one.
    `deviation` says what the engine computes otherwise than the model, where the build accepted that.
    """

    schema: str
    name: str
    sequence: int
    created: str
    model: ModelFacts
    target: TargetFacts
    quant: QuantFacts
    chat: ChatFacts
    limits: Limits
    requires: Requires
    files: tuple[FileEntry, ...]
    certificate: Certificate
    provenance: Provenance
    wheels: tuple[Wheelhouse, ...] = ()
    probe: Probe | None = None
    security_floor: int = 0
    adapters: tuple[SwitchedAdapter, ...] = ()
    base: BaseBundle | None = None
    deviation: str = ""
    picture_probe: PictureProbe | None = None

    def memory_at(self, context: int) -> int:
        """Bytes of memory that a device needs at a context of so many tokens, at most the full one."""
        most = self.requires.cached_tokens or self.limits.context
        unused = min(self.limits.context, most) - min(context, most)
        return self.requires.memory_bytes - unused * self.requires.memory_per_token_bytes


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of `bundle.json`: two-space indented UTF-8 JSON with a final newline, the same each time."""
    return encode_document(manifest)


def decode_manifest(data: bytes, *, where: str = MANIFEST_NAME) -> Manifest:
    """Read the bytes of `bundle.json`. Raises BadBundleError when they are not a manifest we can trust."""
    manifest = decode_document(Manifest, data, SCHEMA, where=where)
    _check_release(manifest, where=where, hint=HINT)
    _check_files(manifest.files, where=where, hint=HINT)
    check_probe(manifest.probe, where=where)
    paths = {entry.path for entry in manifest.files}
    check_picture_probe(manifest.picture_probe, paths, where=where)
    check_images(manifest.model.images, where=where, hint=HINT)
    _check_wheels(manifest, where=where, hint=HINT)
    check_adapters(manifest.adapters, manifest.base, manifest.files, where=where)
    return manifest


def _check_files(files: tuple[FileEntry, ...], *, where: str, hint: str) -> None:
    """Raise BadBundleError unless every file can be written as it is listed, on any file system."""
    sizes: dict[str, int] = {}
    for entry in files:
        problem = path_problem(entry.path)
        if entry.path in SIGNATURE_NAMES:
            problem = "is kept for a signature"
        if problem is not None:
            raise BadBundleError(f"{where}: file path {entry.path[:300]!r} {problem}", hint=hint)
        if not 0 <= entry.size <= _LARGEST_FILE_BYTES:
            raise BadBundleError(
                f"{where}: {entry.path}: expected a size of 0 to {_LARGEST_FILE_BYTES}, found {entry.size}",
                hint=hint,
            )
        if _SHA256.fullmatch(entry.sha256) is None:
            raise BadBundleError(
                f"{where}: {entry.path}: expected a sha256 of 64 hex digits, found {entry.sha256[:80]!r}",
                hint=hint,
            )
        if not entry.chunks and entry.size > _LARGEST_FILE_WITHOUT_CHUNKS:
            raise BadBundleError(
                f"{where}: {entry.path}: expected a table of chunks for {entry.size} bytes, found none",
                hint=hint,
            )
        if sizes.setdefault(entry.sha256, entry.size) != entry.size:
            raise BadBundleError(
                f"{where}: {entry.path}: expected {sizes[entry.sha256]} bytes, as another file has "
                f"with this sha256, found {entry.size}",
                hint=hint,
            )
        check_chunks(entry, where=where, hint=hint)
    problem = collision((entry.path for entry in files), reserved=(MANIFEST_NAME, *SIGNATURE_NAMES))
    if problem is not None:
        raise BadBundleError(f"{where}: {problem}", hint=hint)


def is_bundle_name(name: str) -> bool:
    """Whether a bundle may have this name: one line, not too long, without spaces around it."""
    return 0 < len(name) <= LONGEST_NAME and name.isprintable() and name == name.strip()


def _check_release(manifest: Manifest, *, where: str, hint: str) -> None:
    """Raise BadBundleError when a store could not tell this release from others, or not fit any."""
    if not is_bundle_name(manifest.name):
        found = manifest.name[:300]
        raise BadBundleError(f"{where}: expected a name of one line, found {found!r}", hint=hint)
    if manifest.security_floor > manifest.sequence:
        raise BadBundleError(
            f"{where}: expected a security_floor of at most {manifest.sequence}, its own sequence, "
            f"found {manifest.security_floor}",
            hint=hint,
        )
    requires = manifest.requires
    for needed in (requires.memory_bytes, requires.disk_bytes, requires.memory_per_token_bytes):
        if needed > _LARGEST_FILE_BYTES:
            raise BadBundleError(
                f"{where}: requires: expected at most {_LARGEST_FILE_BYTES} bytes, found {needed}", hint=hint
            )


def _check_wheels(manifest: Manifest, *, where: str, hint: str) -> None:
    """Raise BadBundleError when nobody could say where the wheels of a bundle are, or what they run on."""
    paths = {entry.path for entry in manifest.files}
    for wheelhouse in manifest.wheels:
        if wheelhouse.requirements not in paths:
            raise BadBundleError(
                f"{where}: wheels: expected {wheelhouse.requirements} among the files, found none", hint=hint
            )
        for what, version in (("python", wheelhouse.python), ("glibc", wheelhouse.glibc)):
            if _VERSION.fullmatch(version) is None:
                raise BadBundleError(
                    f"{where}: wheels: expected a version of {what} such as 2.36, found {version[:80]!r}",
                    hint=hint,
                )


def read_manifest(bundle: Path) -> Manifest:
    """Read and check the manifest of the bundle in folder `bundle`. Raises BadBundleError."""
    path = bundle / MANIFEST_NAME
    hint = f"give the folder that `{edgephi_command('build')}` wrote"
    if not path.is_file():
        found = "no such folder" if not bundle.exists() else f"no {MANIFEST_NAME} in it"
        raise BadBundleError(f"{bundle}: expected a bundle, found {found}", hint=hint)
    if path.stat().st_size > LARGEST_MANIFEST_BYTES:
        raise BadBundleError(
            f"{path}: expected at most {LARGEST_MANIFEST_BYTES} bytes, found {path.stat().st_size}",
            hint=hint,
        )
    return decode_manifest(path.read_bytes(), where=str(path))
