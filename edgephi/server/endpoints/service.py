"""What all endpoints work with."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from edgephi.bundle.manifest import Manifest
from edgephi.bundle.switched_adapter import model_name
from edgephi.server.admission import Queue
from edgephi.server.constraint_trials import ConstraintTrials
from edgephi.server.engine.supervisor import Supervisor
from edgephi.server.images.asked import Sight
from edgephi.server.images.fetch import Fetcher
from edgephi.server.images.room import ImageRoom
from edgephi.server.log import Log
from edgephi.server.metrics import Metrics
from edgephi.server.openai.models import ImageSight, Modalities, Model, ServedFacts
from edgephi.server.refusal import Refusal

_REQUESTS_WITH_IMAGES = 2  # as large as they may be; of smaller ones, more

Fetches = Literal["none", "public", "all"]
"""Where images are fetched from that a request gives an address of."""


@dataclass(frozen=True)
class ServiceOptions:
    """How requests are treated. Seconds and bytes; `deadline_seconds` None: no deadline.

    `ollama`: whether Ollama's API is spoken too. `max_images_bytes`: what images may add to a request, where
    the model sees. `fetches`: from where images are fetched.
    """

    max_body_bytes: int
    deadline_seconds: float | None
    system: str | None
    ollama: bool = False
    max_images_bytes: int = 0
    fetches: Fetches = "none"


@dataclass
class Service:
    """All that the endpoints work with."""

    manifest: Manifest
    options: ServiceOptions
    queue: Queue
    supervisor: Supervisor
    constraints: ConstraintTrials
    metrics: Metrics
    log: Log
    stopping: bool = False
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @functools.cached_property
    def image_room(self) -> ImageRoom:
        """Room for the images of all requests: none, where the model reads text only."""
        most = 0 if self.manifest.model.images is None else self.options.max_images_bytes
        return ImageRoom(_REQUESTS_WITH_IMAGES * most, most)

    @property
    def sight(self) -> Sight:
        """How the model sees."""
        return Sight(self.manifest.model.images, self.context, self._fetcher)

    @functools.cached_property
    def _fetcher(self) -> Fetcher | None:
        fetches = self.options.fetches
        return None if fetches == "none" else Fetcher(private=fetches == "all")

    @property
    def context(self) -> int:
        """The most tokens of prompt and answer together."""
        ready = self.supervisor.ready
        return self.manifest.limits.context if ready is None else ready.context

    def models(self) -> tuple[Model, ...]:
        """The bundle's model and, as models of their own, that with each of its adapters."""
        names = ("", *(adapter.name for adapter in self.manifest.adapters))
        return tuple(map(self.model, names))

    def model(self, adapter: str) -> Model:
        """The model with an adapter or, without a name, the one that answers where none is named."""
        manifest, ready = self.manifest, self.supervisor.ready
        facts = ServedFacts(
            context=self.context,
            engine=manifest.target.engine if ready is None else f"{ready.engine} {ready.version}",
            provider=manifest.target.provider if ready is None else ready.provider,
            parameters=manifest.model.parameters,
            bundle=manifest.name,
            images=self._image_sight(),
        )
        modalities = Modalities(("text",) if facts.images is None else ("text", "image"))
        return Model(self.model_name(adapter), _unix_time(manifest.created), facts, modalities)

    def _image_sight(self) -> ImageSight | None:
        images = self.manifest.model.images
        if images is None:
            return None
        return ImageSight(
            images.tile, images.patch, images.crops, self.options.max_images_bytes, self.options.fetches
        )

    def model_name(self, adapter: str) -> str:
        """What the model with an adapter is called, or without one."""
        return model_name(self.manifest.name, adapter)

    def asked_adapter(self, asked: str | None) -> str:
        """The adapter that the name of a model asks for, or "". Raises Refusal (404) for another model."""
        manifest = self.manifest
        if not asked:
            return ""
        for name in (manifest.name, manifest.model.id):
            adapters = {model_name(name, adapter.name): adapter.name for adapter in manifest.adapters}
            if asked in {name, *adapters}:
                return adapters.get(asked, "")
        known = " or ".join(repr(each.id) for each in self.models())
        raise Refusal(
            404, f"expected the model {known}, found {asked[:100]!r}", param="model", code="model_not_found"
        )

    def check_open(self) -> None:
        """Raise Refusal (503) when nothing can be answered yet, or no more."""
        if self.stopping:
            raise Refusal(503, "the server is stopping", code="stopping", retry_after=5)
        if not self.supervisor.was_ready:
            raise Refusal(503, "the model is being loaded", code="loading", retry_after=2)

    def next_number(self) -> int:
        """The id of the next request."""
        return next(self._numbers)


def _unix_time(created: str) -> int:
    """Seconds since 1970 of a manifest's date; 0 when it is not one."""
    with contextlib.suppress(ValueError):
        return int(datetime.fromisoformat(created).timestamp())
    return 0
