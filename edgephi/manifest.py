"""`bundle.json`: the manifest of a bundle, and the one contract that crosses from builder to device.

A bundle is a folder with this manifest and a `model/` folder that the engine's own loader opens as it is.
Both sides of the wall read this module, so it needs the standard library only. All sizes are bytes.
"""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from edgephi.errors import BadBundleError
from edgephi.records import read_record, write_record

SCHEMA = "edgephi.bundle/1"
MANIFEST_NAME = "bundle.json"
ARTIFACT_FOLDER = "model"
WHEELS_FOLDER = "wheels"
REQUIREMENTS_NAME = "requirements.txt"
OWN_EXPORTER = "edgephi"
_LARGEST_MANIFEST_BYTES = 64 << 20

VerifyLevel = Literal["quick", "full", "off"]


@dataclass(frozen=True)
class ModelFacts:
    """Which checkpoint the bundle was made from. `context` is what the checkpoint was trained for."""

    id: str
    revision: str
    variant: str
    parameters: int
    context: int


@dataclass(frozen=True)
class TargetFacts:
    """What the bundle was made for."""

    name: str
    engine: str
    provider: str
    arch: tuple[str, ...]


@dataclass(frozen=True)
class QuantFacts:
    """How the weights were quantised; `bits_per_weight` counts all that is stored."""

    bits: int
    group_size: int
    symmetric: bool
    method: str
    embedding_bits: int
    head_bits: int
    bits_per_weight: float


@dataclass(frozen=True)
class Chat:
    """The Jinja chat template that renders a conversation, and every token id that ends an answer."""

    template: str
    stop_token_ids: tuple[int, ...]


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

    `memory_per_token_bytes` is the part of the memory that each token of the context takes.
    """

    memory_bytes: int
    disk_bytes: int
    engines: dict[str, str]
    memory_per_token_bytes: int = 0


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle, `path` relative to the bundle's folder with forward slashes."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Divergence:
    """How far one distribution over next tokens is from another, over every position of the text.

    `kl_mean` and `kl_max` in nats, `top1` the share of positions whose most likely token is the same,
    `perplexity_from` and `perplexity_to` of the evaluation text under each of the two.
    """

    kl_mean: float
    kl_max: float
    top1: float
    perplexity_from: float
    perplexity_to: float


@dataclass(frozen=True)
class Certificate:
    """What was measured when the bundle was sealed. With level "off" there are no numbers.

    `export_error`: reference with the same quantised weights -> the engine; must be rounding noise.
    `quantisation_loss`: original weights -> quantised weights, both in the reference.
    `end_to_end`: original weights in the reference -> the engine. Only this one is there when another
    exporter wrote the artifact, whose codes we do not read.
    `provider` computed the engine's numbers; when it is not the bundle's own, `note` says so.
    """

    level: VerifyLevel
    text: str = ""
    tokens: int = 0
    reference: str = ""
    engine: str = ""
    provider: str = ""
    note: str = ""
    export_error: Divergence | None = None
    quantisation_loss: Divergence | None = None
    end_to_end: Divergence | None = None


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
    """The whole of `bundle.json`. `sequence` orders the releases of one `name`, `created` is ISO 8601 UTC."""

    schema: str
    name: str
    sequence: int
    created: str
    model: ModelFacts
    target: TargetFacts
    quant: QuantFacts
    chat: Chat
    limits: Limits
    requires: Requires
    files: tuple[FileEntry, ...]
    certificate: Certificate
    provenance: Provenance
    wheels: tuple[Wheelhouse, ...] = ()


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of `bundle.json`: two-space indented UTF-8 JSON with a final newline, the same each time."""
    return (json.dumps(write_record(manifest), indent=2, ensure_ascii=False) + "\n").encode()


def decode_manifest(data: bytes, *, where: str = MANIFEST_NAME) -> Manifest:
    """Read the bytes of `bundle.json`. Raises BadBundleError when they are not a manifest we can trust."""
    hint = "build the bundle again, or copy it again from where it was built"
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError) as cause:
        raise BadBundleError(f"{where}: expected JSON, found {cause}", hint=hint) from None
    schema = plain.get("schema") if isinstance(plain, dict) else None
    if schema != SCHEMA:
        raise BadBundleError(
            f"{where}: expected schema {SCHEMA!r}, found {schema!r}",
            hint="use the edgephi version that wrote this bundle, or build it again with this one",
        )
    manifest = read_record(Manifest, plain, where=where, error=BadBundleError, hint=hint)
    seen: set[str] = set()
    for entry in manifest.files:
        parts = PurePosixPath(entry.path)
        # `str(parts) != path` also catches "a//b", "./a" and "a/", which name a file in a second way.
        if parts.is_absolute() or ".." in parts.parts or "\\" in entry.path or str(parts) != entry.path:
            raise BadBundleError(f"{where}: file path {entry.path!r} leaves the bundle's folder", hint=hint)
        if entry.path in seen or entry.path in (MANIFEST_NAME, "."):
            raise BadBundleError(f"{where}: file path {entry.path!r} is listed twice", hint=hint)
        seen.add(entry.path)
    for wheelhouse in manifest.wheels:
        if wheelhouse.requirements not in seen:
            raise BadBundleError(
                f"{where}: wheels: expected {wheelhouse.requirements} among the files, found none", hint=hint
            )
    return manifest


def read_manifest(bundle: Path) -> Manifest:
    """Read and check the manifest of the bundle in folder `bundle`. Raises BadBundleError."""
    path = bundle / MANIFEST_NAME
    hint = "give the folder that `edgephi build -o` wrote"
    if not path.is_file():
        found = "no such folder" if not bundle.exists() else f"no {MANIFEST_NAME} in it"
        raise BadBundleError(f"{bundle}: expected a bundle, found {found}", hint=hint)
    if path.stat().st_size > _LARGEST_MANIFEST_BYTES:
        raise BadBundleError(
            f"{path}: expected at most {_LARGEST_MANIFEST_BYTES} bytes, found {path.stat().st_size}",
            hint=hint,
        )
    return decode_manifest(path.read_bytes(), where=str(path))
