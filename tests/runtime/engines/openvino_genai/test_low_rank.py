"""Adapters that are switched on in OpenVINO's decoder, on the demo's bundle with two that PEFT made."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import edgephi
from edgephi.build.build import find_checkpoint
from edgephi.build.switched_adapters.build_adapters import build_adapters
from edgephi.build.switched_adapters.request import AdaptersRequest, NamedAdapter
from edgephi.bundle.manifest import ARTIFACT_FOLDER, read_manifest
from edgephi.checkpoint.adapter.locate_adapter import locate_adapters
from edgephi.declared.recipe import read_recipe
from edgephi.errors import BadBundleError, BadInputError
from edgephi.runtime.adapter import Engine, open_engine
from edgephi.runtime.engines.openvino_genai import adapter
from edgephi.runtime.engines.openvino_genai import decoder as openvino_decoder
from edgephi.runtime.engines.openvino_genai.adapter import OpenvinoEngine
from edgephi.steps import silent
from tests.runtime.engines.cache_behaviour import grow, some_ids
from tests.runtime.engines.openvino_float32 import float32_core
from tests.runtime.engines.test_openvino_genai import build_for_openvino
from tests.tiny_checkpoint import write_tiny_checkpoint

np = pytest.importorskip("numpy")
pytest.importorskip("openvino_genai")
pytest.importorskip("peft")
load_file = pytest.importorskip("safetensors.numpy").load_file

from edgephi.export.openvino.adapter import write_adapter  # noqa: E402
from tests.checkpoint.adapter.peft_adapter import merged_by_peft, save_adapter  # noqa: E402
from tests.export.openvino.oracle import tensors_of  # noqa: E402
from tests.export.openvino.test_adapter import factors_of  # noqa: E402
from tests.export.openvino.test_exporter import model_with  # noqa: E402
from tests.export.oracle import Floats, expected_logits, mean_kl, transformers_model  # noqa: E402

DEMO = Path(edgephi.__file__).parent / "demo"
IDS = some_ids(60)
NAMES = ("kitchen", "garden")
TOLERANCE = 1e-5  # of a cache that was filled in other pieces


@dataclass(frozen=True)
class Adapted:
    """The demo's bundle, the artifact with two adapters for it, and how PEFT saved each of them."""

    bundle: Path
    artifact: Path
    trained: dict[str, Path]


@pytest.fixture(scope="module", autouse=True)
def _float32() -> Iterator[None]:
    openvino = adapter._import_engine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino, "Core", float32_core(openvino))
        yield


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    folder = tmp_path_factory.mktemp("adapted")
    trained = {
        "kitchen": save_adapter(DEMO, folder / "kitchen", seed=1, lora_alpha=2),
        "garden": save_adapter(
            DEMO, folder / "garden", seed=2, r=2, lora_alpha=2, target_modules=["qkv_proj"]
        ),
    }
    bundle, artifact = build_for_openvino("demo", folder / "bundle"), folder / "artifact"
    named = tuple(NamedAdapter(name, *locate_adapters([str(path)])) for name, path in trained.items())
    located = find_checkpoint("demo", read_recipe("demo"), None, progress=False)
    build_adapters(AdaptersRequest(bundle, named, artifact, "off"), located, silent)
    return Adapted(bundle, artifact, trained)


def opened(bundle: Path, artifact: Path, *, paged: bool = True) -> OpenvinoEngine:
    """The engine with the adapters of an artifact, which may be the bundle's own folder."""
    with pytest.MonkeyPatch.context() as patch:
        if not paged:
            patch.setattr(openvino_decoder, "_PagedDecoder", _no_paged_decoder)
        engine = open_engine(bundle, read_manifest(artifact), beside=artifact)
    assert isinstance(engine, OpenvinoEngine)
    return engine


def _no_paged_decoder(*_: Any, **__: Any) -> Any:
    raise openvino_decoder._NotPagedError


@pytest.fixture(scope="module", params=["paged", "stateful"])
def paged(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "paged")


@pytest.fixture(scope="module")
def engine(adapted: Adapted, paged: bool) -> OpenvinoEngine:
    return opened(adapted.bundle, adapted.artifact, paged=paged)


def logits(engine: Engine, name: str) -> Any:
    return next(engine.logits(IDS, step=len(IDS), adapter=name))


def file_of(artifact: Path, name: str) -> Path:
    return artifact / ARTIFACT_FOLDER / "adapters" / name / "adapter_model.safetensors"


def with_written(tensors: dict[str, Floats], file: Path) -> dict[str, Floats]:
    """The tensors with the products that the safetensors library finds in an adapter's file."""
    prefix, right = "base_model.model.", ".lora_A.weight"
    found = {name.removeprefix(prefix): array.astype(np.float32) for name, array in load_file(file).items()}
    products = {
        name.replace(right, ".weight"): found[name.replace(right, ".lora_B.weight")] @ array
        for name, array in found.items()
        if name.endswith(right)
    }
    assert products.keys() < tensors.keys()
    return {name: tensor + products.get(name, np.float32(0)) for name, tensor in tensors.items()}


def fresh(engine: Engine, name: str, tokens: list[int]) -> Any:
    cache = engine.open_cache(len(tokens), adapter=name)
    grow(cache, tokens)
    found = cache.logits().copy()
    cache.close()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_computes_what_peft_merges(adapted: Adapted, engine: OpenvinoEngine, name: str) -> None:
    quantised = with_written(tensors_of(adapted.bundle / ARTIFACT_FOLDER), file_of(adapted.artifact, name))
    exact, merged = (
        expected_logits(model_with(DEMO, dict(tensors)), IDS)
        for tensors in (quantised, merged_by_peft(DEMO, adapted.trained[name]))
    )
    base = expected_logits(transformers_model(DEMO), IDS)
    assert mean_kl(merged, base) > 0.03
    found = logits(engine, name)
    assert mean_kl(exact, found) < 2e-6  # the cache's float16
    assert mean_kl(merged, found) < 1.2 * mean_kl(base, logits(engine, ""))  # as near as the base to its own


def test_off_it_is_the_base_bit_by_bit(adapted: Adapted, engine: OpenvinoEngine, paged: bool) -> None:
    plain = opened(adapted.bundle, adapted.bundle, paged=paged)
    assert not plain._decoder.branches.shapes
    expected = logits(plain, "")
    np.testing.assert_array_equal(logits(engine, ""), expected)
    assert mean_kl(expected, logits(engine, "garden")) > 0.01
    np.testing.assert_array_equal(logits(engine, ""), expected)
    ours, theirs = engine.open_cache(80), plain.open_cache(80)
    for tokens in (IDS[:40], *([token] for token in IDS[40:50])):
        grow(ours, tokens)
        grow(theirs, tokens)
        np.testing.assert_array_equal(ours.logits(), theirs.logits())


def test_caches_side_by_side(engine: OpenvinoEngine) -> None:
    names = ("", *NAMES, "kitchen")
    caches = [engine.open_cache(80, adapter=name) for name in names]
    for tokens in (IDS[:30], *([token] for token in IDS[30:34])):
        for cache in caches:
            grow(cache, tokens)
    engine.open_cache(10, adapter="garden").close()
    caches[1].close()
    found = {
        name: cache.logits() for name, cache in zip(names, caches, strict=True) if cache is not caches[1]
    }
    for name, scores in found.items():
        assert mean_kl(fresh(engine, name, IDS[:34])[None], scores[None]) < TOLERANCE
    assert mean_kl(found[""][None], found["garden"][None]) > 0.01
    assert mean_kl(found["kitchen"][None], found["garden"][None]) > 0.01


def test_a_copy_of_a_cache_has_its_adapter(engine: OpenvinoEngine) -> None:
    prefix = engine.open_cache(80, adapter="kitchen")
    grow(prefix, IDS[:20])
    copy = prefix.fork()
    assert copy is not None
    grow(prefix, IDS[20:25])
    base = engine.open_cache(80)
    grow(base, IDS[:5])
    grow(copy, IDS[30:40])
    expected = fresh(engine, "kitchen", [*IDS[:20], *IDS[30:40]])
    assert mean_kl(expected[None], copy.logits()[None]) < TOLERANCE
    copy.rewind(10)
    grow(copy, IDS[10:20])
    assert mean_kl(fresh(engine, "kitchen", IDS[:20])[None], copy.logits()[None]) < TOLERANCE


def test_a_name_that_no_adapter_has(engine: OpenvinoEngine) -> None:
    with pytest.raises(BadInputError, match=r"which has kitchen, garden; found 'attic'"):
        engine.open_cache(8, adapter="attic")


class TestFileOfAnotherModel:
    @pytest.fixture
    @staticmethod
    def artifact(adapted: Adapted, tmp_path: Path) -> Path:
        return shutil.copytree(adapted.artifact, tmp_path / "artifact")

    def check_refused(self, adapted: Adapted, artifact: Path, found: str) -> None:
        """Opening one adapter fails in one line; the base and the other one compute on."""
        engine = opened(adapted.bundle, artifact)
        expected = r"adapter_model\.safetensors: expected an adapter for this model, found: " + found
        for _ in range(2):
            with pytest.raises(BadBundleError, match=expected) as caught:
                engine.open_cache(8, adapter="garden")
            assert "\n" not in caught.value.message
        for name in ("", "kitchen"):
            assert fresh(engine, name, IDS[:3]).std() > 0

    def test_a_matrix_of_another_shape(self, adapted: Adapted, artifact: Path, tmp_path: Path) -> None:
        other = write_tiny_checkpoint(tmp_path / "other", hidden=128)
        trained = save_adapter(other, tmp_path / "trained", target_modules=["qkv_proj"])
        factors = factors_of(other, trained)
        target = read_manifest(artifact).target
        written = write_adapter(tmp_path / "written", "garden", factors, tmp_path, target)
        shutil.copy(tmp_path / "written" / written, file_of(artifact, "garden"))
        self.check_refused(
            adapted, artifact, r"one for a matrix \[256, 128\] where .*qkv_proj is \[\d+, \d+\]"
        )

    def test_a_matrix_that_the_graph_does_not_have(self, adapted: Adapted, artifact: Path) -> None:
        file, matrix = file_of(artifact, "garden"), "model.layers.9.self_attn.qkv_proj"
        file.write_bytes(file.read_bytes().replace(b"model.layers.0.self_attn.qkv_proj", matrix.encode()))
        self.check_refused(adapted, artifact, f"one for '{matrix}', which the graph does not have")

    def test_a_file_that_is_not_there(self, adapted: Adapted, artifact: Path) -> None:
        file_of(artifact, "garden").unlink()
        self.check_refused(adapted, artifact, ".*No such file")
