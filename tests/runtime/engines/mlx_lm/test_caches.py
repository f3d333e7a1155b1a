"""The KV caches of the models that edgephi has classes of its own for: rewound, forked and in pieces."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgephi.build.build import build, find_checkpoint
from edgephi.build.request import BuildRequest
from edgephi.bundle.manifest import read_manifest
from edgephi.declared.recipe import read_recipe
from edgephi.declared.target import Kernels, read_target
from edgephi.runtime.adapter import Engine, open_engine
from edgephi.steps import silent
from tests.portable import portable
from tests.runtime.engines.cache_behaviour import CacheBehaviour
from tests.tiny_phi3small import UNUSED, write_tiny_phi3small
from tests.tiny_phimoe import write_tiny_phimoe

mx: Any = pytest.importorskip("mlx.core")


def opened(tiny: Path, folder: Path) -> Engine:
    """The engine of a bundle of the checkpoint in `tiny`."""
    target = dataclasses.replace(read_target("mlx"), kernels=Kernels(activations="float32"))
    recipe = dataclasses.replace(read_recipe("default"), quant=portable())
    request = BuildRequest(str(tiny), target, recipe, folder / "bundle", verify="off", context=512)
    build(request, find_checkpoint(str(tiny), recipe, None, progress=False), silent)
    return open_engine(folder / "bundle", read_manifest(folder / "bundle"), provider="cpu")


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("phimoe")
    return opened(write_tiny_phimoe(folder / "tiny"), folder)


@pytest.fixture(scope="module")
def block_sparse(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Blocks of 16 tokens, two of them near."""
    folder = tmp_path_factory.mktemp("phi3small")
    return opened(write_tiny_phi3small(folder / "tiny", block=16, local_blocks=2), folder)


class TestExperts(CacheBehaviour):
    takes_pieces_of = 16

    @pytest.fixture
    def engine(self, experts: Engine) -> Engine:
        return experts


class TestBlockSparse(CacheBehaviour):
    takes_pieces_of = 16

    @pytest.fixture
    def engine(self, block_sparse: Engine) -> Engine:
        return block_sparse

    def test_unused_tokens_are_never_likely(self, engine: Engine) -> None:
        [logits] = engine.logits([5, 6, 7], step=3)
        assert (logits[:, UNUSED] == np.finfo(np.float32).min).all()
