"""What Ollama's clients are told of the models, as types."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from edgephi.bundle.manifest import ARTIFACT_FOLDER, Manifest, encode_manifest
from edgephi.engines.facts.registry import facts_of

VERSION = "0.12.0"
"""Of Ollama: the one whose API this is. Clients look for what they need by it."""

_NEVER = "2318-01-01T00:00:00Z"  # when a model that stays is unloaded; as far away as Ollama has it


class OllamaVersion(msgspec.Struct, frozen=True):
    """GET /api/version."""

    version: str = VERSION


class ModelDetails(msgspec.Struct, frozen=True):
    """Facts about a model's file."""

    format: str
    family: str
    families: tuple[str, ...]
    parameter_size: str
    quantization_level: str
    parent_model: str = ""


class ListedModel(msgspec.Struct, frozen=True):
    """A model that can be asked. Bytes; `digest` is the sha256 of the bundle's manifest."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: ModelDetails


class ModelTags(msgspec.Struct, frozen=True):
    """GET /api/tags."""

    models: tuple[ListedModel, ...]


class LoadedModel(msgspec.Struct, frozen=True):
    """A model that is loaded. Bytes and tokens."""

    name: str
    model: str
    size: int
    digest: str
    details: ModelDetails
    context_length: int
    expires_at: str = _NEVER
    size_vram: int = 0


class LoadedModels(msgspec.Struct, frozen=True):
    """GET /api/ps."""

    models: tuple[LoadedModel, ...]


class ShownModel(msgspec.Struct, frozen=True):
    """POST /api/show."""

    modelfile: str
    parameters: str
    template: str
    details: ModelDetails
    model_info: dict[str, Any]
    capabilities: tuple[str, ...]
    modified_at: str


def listed_model(manifest: Manifest, name: str) -> ListedModel:
    """What the list of models says of one."""
    return ListedModel(
        name, name, manifest.created, _bytes(manifest), _digest(manifest), model_details(manifest)
    )


def loaded_model(manifest: Manifest, name: str, context: int) -> LoadedModel:
    """What the list of models that are loaded says of one."""
    return LoadedModel(
        name,
        name,
        manifest.memory_at(context),
        _digest(manifest),
        model_details(manifest),
        context,
    )


def shown_model(manifest: Manifest, name: str, context: int) -> ShownModel:
    """All that is told of one model."""
    details = model_details(manifest)
    return ShownModel(
        modelfile=f"# {name}, served by edgephi: there is no Modelfile\n",
        parameters=f"num_ctx {context}",
        template=manifest.chat.template,
        details=details,
        model_info={
            "general.architecture": details.family,
            "general.basename": manifest.model.id,
            "general.parameter_count": manifest.model.parameters,
            f"{details.family}.context_length": context,
        },
        capabilities=("completion", "tools", *(() if manifest.model.images is None else ("vision",))),
        modified_at=manifest.created,
    )


def model_details(manifest: Manifest) -> ModelDetails:
    """Facts about a bundle's model."""
    family = "phi3"  # the one architecture that bundles have
    return ModelDetails(
        format=facts_of(manifest.target.engine).artifact_format,
        family=family,
        # Clients older than `capabilities` look here for the encoder of a model that sees.
        families=(family,) if manifest.model.images is None else (family, "clip"),
        parameter_size=_size(manifest.model.parameters),
        quantization_level=f"Q{manifest.quant.bits}",
    )


def _bytes(manifest: Manifest) -> int:
    """What the model's files take."""
    return sum(file.size for file in manifest.files if file.path.startswith(f"{ARTIFACT_FOLDER}/"))


def _digest(manifest: Manifest) -> str:
    return hashlib.sha256(encode_manifest(manifest)).hexdigest()


def _size(parameters: int) -> str:
    """So many parameters, as Ollama writes it: 3.8B, 134.5M."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.1f}{letter}"
    return str(parameters)
