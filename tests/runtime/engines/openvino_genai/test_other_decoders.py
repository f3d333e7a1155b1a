"""The adapter on models that are no plain Phi-3: a trained mixture of experts, and block-sparse attention."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgephi.bundle.manifest import ARTIFACT_FOLDER, read_manifest
from edgephi.engines.openvino_genai import GRAPH_FILE
from edgephi.runtime.adapter import Engine, open_engine
from edgephi.runtime.engines.openvino_genai import adapter
from edgephi.runtime.engines.openvino_genai.adapter import OpenvinoEngine
from edgephi.runtime.engines.openvino_genai.decoder import _PagedDecoder, _StatefulDecoder
from edgephi.runtime.session import Session
from tests.demo.moe_demo import build_moe_demo, some_held_out_commands
from tests.runtime.engines.cache_behaviour import (
    ORIGINAL,
    CacheBehaviour,
    LongRopeBehaviour,
    fresh_logits,
    some_ids,
)
from tests.runtime.engines.openvino_float32 import float32_core
from tests.runtime.engines.test_openvino_genai import build_for_openvino
from tests.tiny_phi3small import write_tiny_phi3small
from tests.tiny_phimoe import write_tiny_phimoe

np = pytest.importorskip("numpy")
pytest.importorskip("openvino_genai")

# Blocks of 16 tokens, of which 2 are near: sparse from the 33rd token on.
EARLY: dict[str, Any] = {"block": 16, "local_blocks": 2, "layers": 2, "hidden": 128, "heads": 4, "ffn": 64}


@pytest.fixture(scope="module", autouse=True)
def _float32() -> Iterator[None]:
    openvino = adapter._import_engine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino, "Core", float32_core(openvino))
        yield


def opened(bundle: Path) -> OpenvinoEngine:
    engine = open_engine(bundle, read_manifest(bundle))
    assert isinstance(engine, OpenvinoEngine)
    return engine


def with_float32_cache(bundle: Path) -> Path:
    """The bundle with a cache that rounds nothing: where scores are close, that chooses experts."""
    graph = bundle / ARTIFACT_FOLDER / GRAPH_FILE
    text = graph.read_text()
    assert '<KV_CACHE_PRECISION value="f16" />' in text
    graph.write_text(text.replace('<KV_CACHE_PRECISION value="f16" />', '<KV_CACHE_PRECISION value="f32" />'))
    return bundle


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("experts") / "bundle"
    build_moe_demo("openvino", bundle, verify="off")
    return bundle


class TestExperts:
    def test_they_answer_commands_that_no_training_has_seen(self, experts: Path) -> None:
        session = Session(experts, read_manifest(experts))
        commands = some_held_out_commands(12)
        right = [session.generate(each.prompt).text == each.answer for each in commands]
        assert sum(right) >= len(commands) - 1


class TestCacheOfExperts(CacheBehaviour):
    takes_pieces_of = 256

    @pytest.fixture(scope="class")
    @staticmethod
    def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
        bundle = tmp_path_factory.mktemp("experts") / "bundle"
        build_moe_demo("openvino", bundle, verify="off")
        engine = opened(with_float32_cache(bundle))
        assert isinstance(engine._decoder, _PagedDecoder)
        return engine


class TestLongRopeOfExperts(LongRopeBehaviour):
    @pytest.fixture(scope="class")
    @staticmethod
    def longrope(tmp_path_factory: pytest.TempPathFactory) -> Engine:
        folder = tmp_path_factory.mktemp("longrope")
        shape: dict[str, Any] = {"original_context": ORIGINAL, "context": 1024, "long_magnitude": 1.4}
        tiny = write_tiny_phimoe(folder / "tiny", layers=1, hidden=128, ffn=64, **shape)
        return opened(with_float32_cache(build_for_openvino(str(tiny), folder / "bundle", context=512)))


class TestCacheOfSparseAttention(CacheBehaviour):
    """Its keys and values are the state of a request: paged attention has no masks."""

    takes_pieces_of = 256
    tolerance = 1e-2

    @pytest.fixture(scope="class")
    @staticmethod
    def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
        folder = tmp_path_factory.mktemp("sparse")
        tiny = write_tiny_phi3small(folder / "tiny", context=1024, **EARLY)
        engine = opened(build_for_openvino(str(tiny), folder / "bundle", context=1024))
        assert isinstance(engine._decoder, _StatefulDecoder)
        return engine

    def test_unused_tokens_are_never_likely(self, engine: Engine) -> None:
        logits = fresh_logits(engine, some_ids(50))
        assert (logits == np.finfo(np.float32).min).sum() == 4


class TestLongRopeOfSparseAttention(LongRopeBehaviour):
    tolerance = 1e-2

    @pytest.fixture(scope="class")
    @staticmethod
    def longrope(tmp_path_factory: pytest.TempPathFactory) -> Engine:
        folder = tmp_path_factory.mktemp("longrope")
        shape: dict[str, Any] = {"original_context": ORIGINAL, "context": 1024, "long_magnitude": 1.4}
        tiny = write_tiny_phi3small(folder / "tiny", longrope=True, **shape, **EARLY)
        return opened(build_for_openvino(str(tiny), folder / "bundle", context=512))
