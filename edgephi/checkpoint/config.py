"""`config.json` of a checkpoint -> its Architecture, by the file of `family/` that its model type names.

Nothing here trusts the file: a number of the wrong type or size, a missing key or an option that would
change the computation is refused with its name, before anybody allocates memory or downloads weights.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

from edgephi.checkpoint import family
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.config_keys import HINT_SUPPORTED, ConfigKeys, read_json_object
from edgephi.checkpoint.images.image_encoder import ImageEncoder
from edgephi.checkpoint.images.preprocessor import PREPROCESSOR_FILE, as_prepared
from edgephi.checkpoint.roles import ModelTensor
from edgephi.checkpoint.weights.foreign import ORIGINAL_HINT, other_kind
from edgephi.checkpoint.weights.source import Source
from edgephi.errors import NotSupportedError

MODEL_TYPES = tuple(sorted(module.name for module in pkgutil.iter_modules(family.__path__)))
"""The model types that edgephi builds: each is a file of `family/`."""

_NOT_YET_SUPPORTED: dict[str, str] = {
    "phi4mm": "Phi-4-multimodal (speech and image encoders)",
    "phi4_multimodal": "Phi-4-multimodal (speech and image encoders)",
}
"""Members of the family that are refused by name, keyed by their `model_type`."""


class Family(Protocol):
    """What a file of `family/` offers."""

    PARTS: frozenset[type]
    """The kinds of norm and feed-forward that its architectures are made of."""

    def read(self, config: ConfigKeys, generation: ConfigKeys) -> Architecture:
        """The architecture that a `config.json` of this type and its `generation_config.json` describe.

        Raises NotSupportedError for an option that edgephi cannot build, BadCheckpointError for a file
        that is broken or contradicts itself.
        """

    def sources(self, architecture: Architecture) -> dict[ModelTensor, tuple[Source, ...]]:
        """Where a checkpoint holds each tensor of `architecture`: every row of it once."""

    def other_modules(self, architecture: Architecture) -> dict[str, tuple[ModelTensor, range]]:
        """Modules of other code for the same model: which rows of which tensor each of them is."""

    def is_known(self, name: str, architecture: Architecture) -> bool:
        """Whether a tensor of a checkpoint that is no source says nothing new, so that it may be left out."""


class SeeingFamily(Family, Protocol):
    """What a file of `family/` offers whose architectures have an image encoder."""

    def image_sources(self, encoder: ImageEncoder) -> dict[ModelTensor, tuple[Source, ...]]:
        """Where a checkpoint holds each tensor of an image encoder: every row of it once."""


def image_sources_of(architecture: Architecture) -> dict[ModelTensor, tuple[Source, ...]]:
    """Where a checkpoint holds each tensor of its image encoder; nothing for a model that does not see."""
    if architecture.image_encoder is None:
        return {}
    family = cast("SeeingFamily", family_of(architecture.model_type))
    return family.image_sources(architecture.image_encoder)


def load_architecture(folder: Path, *, name: str | None = None) -> Architecture:
    """Read `config.json` and, where there is one, `generation_config.json` of the checkpoint in `folder`.

    Of a model that sees, `preprocessor_config.json` too; without it images are prepared as for Phi-3-vision,
    which is enough for a plan.
    `name` stands for the folder in messages. Raises BadCheckpointError or NotSupportedError.
    """
    place = name or str(folder)
    if folder.is_dir() and not (folder / "config.json").is_file():
        other = other_kind(place, (file.name for file in folder.iterdir()))
        if other is not None:
            raise other
    config = read_json_object(folder / "config.json", where=f"{place}: config.json")
    generation: Mapping[str, Any] | None = None
    if (folder / "generation_config.json").is_file():
        where = f"{place}: generation_config.json"
        generation = read_json_object(folder / "generation_config.json", where=where)
    architecture = read_architecture(config, where=f"{place}: config.json", generation_config=generation)
    encoder = architecture.image_encoder
    if encoder is None or not (folder / PREPROCESSOR_FILE).is_file():
        return architecture
    return replace(architecture, image_encoder=as_prepared(encoder, folder, place))


def read_architecture(
    config: Mapping[str, Any], *, where: str, generation_config: Mapping[str, Any] | None = None
) -> Architecture:
    """Check a parsed `config.json` and turn it into an Architecture; `where` names it in messages.

    Raises NotSupportedError for a model or option edgephi cannot build, BadCheckpointError for a file
    that is broken or contradicts itself.
    """
    keys = ConfigKeys(config, where)
    found = family_of(_model_type(keys))
    for key in ("quantization_config", "quantization"):  # the second is MLX's
        if config.get(key):
            raise NotSupportedError(
                f"{where}: {key}: expected original weights, found a checkpoint that is quantised already",
                hint=ORIGINAL_HINT,
            )
    generation = ConfigKeys(generation_config or {}, where.replace("config.json", "generation_config.json"))
    return found.read(keys, generation)


def family_of(model_type: str) -> Family:
    """The file of one of MODEL_TYPES."""
    return cast("Family", importlib.import_module(f"{family.__name__}.{model_type}"))


def _model_type(keys: ConfigKeys) -> str:
    """The model type of a config. Raises for every one whose computation we do not build."""
    model_type = keys.data.get("model_type")
    expected = " or ".join(repr(each) for each in MODEL_TYPES)
    if not isinstance(model_type, str):
        keys.fail("model_type", expected, model_type)
    if model_type in MODEL_TYPES:
        return model_type
    if model_type in _NOT_YET_SUPPORTED:
        raise NotSupportedError(
            f"{keys.where}: {_NOT_YET_SUPPORTED[model_type]} is not supported yet", hint=HINT_SUPPORTED
        )
    raise NotSupportedError(
        f"{keys.where}: model_type: edgephi supports {expected}, found {model_type!r}", hint=HINT_SUPPORTED
    )
