"""A bundle with a real manifest and no real model, for tests of everything that comes before the engine."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from edgephi.bundle.certificate import Certificate, Divergence, PlainRounding, QualityGate, TextPart
from edgephi.bundle.chunks import FileEntry
from edgephi.bundle.manifest import (
    MANIFEST_NAME,
    SCHEMA,
    ChatFacts,
    Limits,
    Manifest,
    ModelFacts,
    Provenance,
    QuantFacts,
    Requires,
    TargetFacts,
    decode_manifest,
    encode_manifest,
)
from edgephi.bundle.switched_adapter import BaseBundle, SwitchedAdapter
from edgephi.chat.formats import PHI_3_CHAT

FILES = {"model/genai_config.json": b"{}", "model/model.onnx": b"graph", "model/model.onnx.data": bytes(3000)}


def tiny_manifest(files: dict[str, bytes] | None = None, **changes: Any) -> Manifest:
    """A manifest that lists `files`, with `changes` to its fields."""
    measured = Divergence(1.5e-5, 2e-6, 3e-6, 4e-5, 1e-4, 2.25e-4, 0.9987, 12.345, 12.347)
    manifest = Manifest(
        schema=SCHEMA,
        name="tiny-cpu",
        sequence=3,
        created="2026-01-01T00:00:00Z",
        model=ModelFacts("tiny", "0123456789ab", "phi-3-mini-4k", 3_821_079_552, 4096),
        target=TargetFacts("cpu", "onnxruntime-genai", "cpu", ("x86_64", "aarch64")),
        quant=QuantFacts(4, 32, True, "scale-search", 4, 8, 4.53),
        chat=ChatFacts(PHI_3_CHAT.template, (32000, 32001, 32007)),
        limits=Limits(2048),
        requires=Requires(10_000_000, 4_000_000, {"onnxruntime-genai": ">=0.18,<0.19"}),
        files=tuple(
            FileEntry(path, len(data), hashlib.sha256(data).hexdigest())
            for path, data in (FILES if files is None else files).items()
        ),
        certificate=Certificate(
            level="full",
            text="edgephi-eval (general)",
            tokens=2880,
            passages=20,
            reference="numpy",
            engine="onnxruntime-genai 0.18.0",
            provider="cpu",
            export_error=measured,
            quantisation_loss=measured,
            end_to_end=measured,
            domains={"chat": TextPart(880, 1e-5, 0.999), "prose": TextPart(2000, 2e-5, 0.998)},
            languages={"en": TextPart(2880, 1.5e-5, 0.9987)},
            plain_rounding=PlainRounding(1.8e-5, 3e-6, 1e-6),
            gate=QualityGate(),
        ),
        provenance=Provenance(
            "0.1.0", "edgephi build tiny --target cpu -o tiny-cpu", {"config.json": "0" * 64}
        ),
    )
    return dataclasses.replace(manifest, **changes)


ADAPTER_FILES = {"model/adapters/tea.gguf": b"tea", "model/adapters/coffee.gguf": b"coffee"}


def tiny_artifact(base: Path, **changes: Any) -> Manifest:
    """The manifest of an artifact with two adapters for the bundle in the folder `base`."""
    data = (base / MANIFEST_NAME).read_bytes()
    whole = decode_manifest(data)
    own = tuple(
        FileEntry(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in ADAPTER_FILES.items()
    )
    manifest = dataclasses.replace(
        whole,
        files=(*whole.files, *own),
        adapters=tuple(
            SwitchedAdapter(Path(path).stem, f"example/{Path(path).stem}", "main", path)
            for path in ADAPTER_FILES
        ),
        base=BaseBundle(
            whole.name,
            whole.sequence,
            hashlib.sha256(data).hexdigest(),
            tuple(entry.path for entry in whole.files),
        ),
    )
    return dataclasses.replace(manifest, **changes)


def write_tiny_artifact(folder: Path, base: Path, **changes: Any) -> Manifest:
    """Write such an artifact into `folder`."""
    for path, data in ADAPTER_FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    manifest = tiny_artifact(base, **changes)
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return manifest


def write_tiny_bundle(folder: Path, files: dict[str, bytes] | None = None, **changes: Any) -> Manifest:
    """Write such a bundle into `folder`."""
    for path, data in (FILES if files is None else files).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    manifest = tiny_manifest(files, **changes)
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return manifest
