"""The models that can be asked, as types."""

from __future__ import annotations

import msgspec


class ImageSight(msgspec.Struct, frozen=True):
    """What tells how many tokens an image is, and how large one may be.

    `tile` and `patch` in pixels; `crops` is the most tiles of an image, the thumbnail aside; `most_bytes` of
    all images of a request, in base64. `fetched` from an address: "none", "public" ones, "all".
    """

    tile: int
    patch: int
    crops: int
    most_bytes: int
    fetched: str


class Modalities(msgspec.Struct, frozen=True):
    """What a model reads and writes, in the words of OpenRouter's list, which clients look for."""

    input_modalities: tuple[str, ...]
    output_modalities: tuple[str, ...] = ("text",)


class ServedFacts(msgspec.Struct, frozen=True):
    """What is not of OpenAI's API: `context` in tokens, `engine` with its version, `parameters` in all.

    `images` says how the model sees, and is null for one that reads text only.
    """

    context: int
    engine: str
    provider: str
    parameters: int
    bundle: str
    images: ImageSight | None = None


class Model(msgspec.Struct, frozen=True):
    """A model that can be asked."""

    id: str
    created: int
    edgephi: ServedFacts
    architecture: Modalities
    object: str = "model"
    owned_by: str = "edgephi"


class ModelList(msgspec.Struct, frozen=True):
    """The bundle's model, and it with each of its adapters."""

    data: tuple[Model, ...]
    object: str = "list"
