"""The models that can be asked, as types."""

from __future__ import annotations

import msgspec


class ServedFacts(msgspec.Struct, frozen=True):
    """What is not of OpenAI's API: `context` in tokens, `engine` with its version, `parameters` in all."""

    context: int
    engine: str
    provider: str
    parameters: int
    bundle: str


class Model(msgspec.Struct, frozen=True):
    """A model that can be asked."""

    id: str
    created: int
    edgephi: ServedFacts
    object: str = "model"
    owned_by: str = "edgephi"


class ModelList(msgspec.Struct, frozen=True):
    """The bundle's model, and it with each of its adapters."""

    data: tuple[Model, ...]
    object: str = "list"
