"""What every engine does that sees, as tests that an engine's own file inherits.

The oracle is transformers' encoder and decoder, with the weights that the artifact has.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from edgephi.build.seeing.image_plans import plan_image_tensors
from edgephi.build.tensor_plans import plan_tensors
from edgephi.bundle.image_tokens import ImageFacts, token_count
from edgephi.bundle.manifest import Limits, Manifest, Requires, TargetFacts
from edgephi.checkpoint.checkpoint import Checkpoint, open_checkpoint
from edgephi.checkpoint.images.image_encoder import ImageEncoder
from edgephi.declared.recipe import ImagePrecision
from edgephi.declared.target import Kernels, read_target
from edgephi.engines.facts.registry import facts_of
from edgephi.export.exporter import exporter, image_encoder_exporter
from edgephi.runtime.adapter import Engine, open_engine
from edgephi.runtime.images.encode import encode_image
from tests.bundle.tiny import tiny_manifest
from tests.export.oracle import Floats, mean_kl
from tests.export.vision_artifact import Grid, encoder_of, oracle_with, some_tiles
from tests.portable import portable
from tests.runtime.engines.cache_behaviour import grow
from tests.tiny_phi3_v import TinyVision, write_tiny_phi3_v
from tests.vision_oracle import VisionOracle

ORIGINAL = 100
"""Tokens up to which the model is rotated by LongRoPE's short factors, where an engine changes them."""
SHAPE = TinyVision(original_context=ORIGINAL, context=1024)
GRIDS = ((2, 1), (1, 3))


@dataclass(frozen=True)
class SomeImage:
    """Tiles of random pixels."""

    pixels: Floats
    grid: Grid
    tokens: int
    key: str


@dataclass(frozen=True)
class Seeing:
    """An engine with a bundle of a tiny model that sees, two images, and what transformers has of them."""

    checkpoint: Checkpoint
    engine: Engine
    oracle: VisionOracle
    images: tuple[SomeImage, ...]
    expected: tuple[Floats, ...]
    """The tokens of each image, [tokens, hidden]."""

    def prompt(self) -> list[int]:
        """Words, both images, and words after them; the first image a second time in part."""
        assert self.engine.image_rows is not None
        first, second = (list(self.engine.image_rows.place(each.key, each.tokens)) for each in self.images)
        return [1, 300, 17, *first, 40, 41, *second, 42, 7, 8, 9, *first[:5], 50, 51]

    def logits(self, ids: list[int]) -> Floats:
        """What transformers says after each of `ids`; an image's own ids may be any below 0."""
        assert self.engine.image_rows is not None
        places: dict[int, int] = {}
        for image in self.images:
            for each in self.engine.image_rows.place(image.key, image.tokens):
                places[each] = len(places)
        own = [-1 - places[each] if each < 0 else each for each in ids]
        found: Floats = self.oracle.logits(own, np.concatenate(self.expected)).numpy()
        return found


def see(
    target_name: str,
    folder: Path,
    *,
    kernels: Kernels = Kernels(accuracy_level=0),  # noqa: B008 - frozen
    image_encoder: ImagePrecision = "int8",
    shape: TinyVision = SHAPE,
) -> Seeing:
    """A tiny model that sees, exported into `folder` for a target and opened on a CPU."""
    checkpoint = open_checkpoint(write_tiny_phi3_v(folder / "tiny", shape), id="tiny", revision="local")
    architecture, encoder = checkpoint.architecture, encoder_of(checkpoint)
    target = dataclasses.replace(read_target(target_name), kernels=kernels)
    quant = dataclasses.replace(portable(method="rtn", group_size=32), image_encoder=image_encoder)
    own, images = exporter(target.engine), image_encoder_exporter(target.engine)
    plans = plan_tensors(architecture, quant, facts_of(target.engine).native_groups)
    limit = own.context_limit(architecture)
    context = min(512, 512 if limit is None else limit.tokens)
    artifact = folder / "bundle" / "model"
    artifact.mkdir(parents=True)
    own.write_artifact(artifact, checkpoint, plans, target, context)
    images.write(artifact, checkpoint, plan_image_tensors(encoder, quant), target)
    rotary = architecture.attention.rotary
    switch = rotary.original_context if rotary.uses_long_factors(context) else None
    manifest = seeing_manifest(target_name, encoder.facts, context, switch=switch)
    stored = own.artifact_weights(artifact, architecture), images.weights(artifact, encoder)
    oracle = oracle_with(checkpoint, *stored, folder / "again")
    given = tuple(some_image(encoder, grid) for grid in GRIDS)
    engine = open_engine(folder / "bundle", manifest, provider="cpu")
    expected = tuple(oracle.image(image.pixels, image.grid).numpy() for image in given)
    assert engine.image_rows is not None
    for image in given:
        engine.image_rows.place(image.key, image.tokens)
        done = list(encode_image(engine, image, encoder.facts))
        assert done == [*range(1, 1 + len(image.pixels))]
    return Seeing(checkpoint, engine, oracle, given, expected)


def seeing_manifest(
    target_name: str, facts: ImageFacts, context: int, *, switch: int | None = None
) -> Manifest:
    """A manifest that says what an engine asks. LongRoPE's factors change above `switch` tokens."""
    target = read_target(target_name)
    return tiny_manifest(
        {},
        model=dataclasses.replace(tiny_manifest({}).model, images=facts),
        target=TargetFacts(target.name, target.engine, target.provider, target.arch),
        limits=Limits(context, switch),
        requires=Requires(1, 1, dict(target.engines)),
    )


def some_image(encoder: ImageEncoder, grid: Grid) -> SomeImage:
    return SomeImage(some_tiles(encoder, grid), grid, token_count(grid, encoder.facts), str(grid))


class SeeingBehaviour:
    """Inherited by a class that has a `seeing` fixture for its engine around it."""

    image_rounding: ClassVar[float] = 1e-5
    """Of the deviation of the tokens of images."""
    limit: ClassVar[float] = 1e-6
    """Nats between logits of transformers and of the engine."""

    def test_an_image_is_what_transformers_makes_of_it(self, seeing: Seeing) -> None:
        assert seeing.engine.image_rows is not None
        for image, expected in zip(seeing.images, seeing.expected, strict=True):
            found = seeing.engine.image_rows.take(seeing.engine.image_rows.place(image.key, image.tokens))
            np.testing.assert_allclose(found, expected, atol=self.image_rounding * expected.std())

    @pytest.mark.parametrize("step", [1000, 32, 7])
    def test_a_conversation_about_two_images(self, seeing: Seeing, step: int) -> None:
        ids = seeing.prompt()
        found = np.concatenate(list(seeing.engine.logits(ids, step=step)))
        assert mean_kl(seeing.logits(ids), found) <= self.limit

    def test_it_matters_which_image_it_is(self, seeing: Seeing) -> None:
        """The tests here would see nothing if images changed nothing."""
        ids = seeing.prompt()
        words = [id_ if id_ > 0 else 99 for id_ in ids]
        first = seeing.images[0].tokens
        other = [id_ - first if -first <= id_ < 0 else id_ for id_ in ids[: 3 + first]]
        for changed in (words, other):
            length = len(changed)
            assert mean_kl(seeing.logits(ids[:length]), seeing.logits(changed)) > 0.05

    @pytest.mark.parametrize("step", [1000, 9, 1])
    def test_a_cache_takes_images(self, seeing: Seeing, step: int) -> None:
        ids, cache = seeing.prompt(), seeing.engine.open_cache(100)
        for start in range(0, len(ids), step):
            grow(cache, ids[start : start + step])
        self.check(seeing, cache, ids)

    def test_a_rewound_cache_goes_on(self, seeing: Seeing) -> None:
        ids, cache = seeing.prompt(), seeing.engine.open_cache(100)
        grow(cache, ids)
        inside = 3 + seeing.images[0].tokens // 2  # of the first image
        for kept, then in ((inside, ids[inside:]), (inside, [70, 71, *ids[3:9]]), (2, [30, *ids[30:45]])):
            cache.rewind(kept)
            grow(cache, then)
            self.check(seeing, cache, [*ids[:kept], *then])

    def test_a_fork_goes_its_own_way(self, seeing: Seeing) -> None:
        ids, cache = seeing.prompt(), seeing.engine.open_cache(100)
        grow(cache, ids)
        fork = cache.fork()
        if fork is None:
            return
        grow(fork, ids[3:10])
        grow(cache, [33])
        self.check(seeing, fork, [*ids, *ids[3:10]])
        self.check(seeing, cache, [*ids, 33])

    def check(self, seeing: Seeing, cache: Any, ids: list[int]) -> None:
        """The logits of a cache are those of a prefill in transformers."""
        assert list(cache.tokens) == ids
        assert mean_kl(seeing.logits(ids)[-1:], cache.logits()[None]) <= self.limit


class SeeingLongBehaviour(SeeingBehaviour):
    """Of engines that change LongRoPE's factors."""

    def test_images_across_longropes_switch(self, seeing: Seeing) -> None:
        """Above the original context all that came before is computed again, images too."""
        ids = seeing.prompt()
        ids += [*range(20, 20 + ORIGINAL - len(ids) - 1)]
        assert len(ids) == ORIGINAL - 1
        cache = seeing.engine.open_cache(ORIGINAL + 30)
        grow(cache, ids)
        self.check(seeing, cache, ids)
        for token in (60, 61, *ids[3:6]):
            grow(cache, [token])
            ids = [*ids, token]
        self.check(seeing, cache, ids)
        grow(cache, ids[5:20])
        self.check(seeing, cache, [*ids, *ids[5:20]])
        cache.rewind(40)
        grow(cache, [44])
        self.check(seeing, cache, [*ids[:40], 44])
