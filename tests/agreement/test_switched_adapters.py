"""PEFT's adapters on every engine that switches them: on, they are PEFT's; off, they were never there."""

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgephi.build.build import find_checkpoint
from edgephi.build.switched_adapters.build_adapters import build_adapters
from edgephi.build.switched_adapters.request import AdaptersRequest, NamedAdapter
from edgephi.bundle.manifest import ARTIFACT_FOLDER, read_manifest
from edgephi.checkpoint.adapter.locate_adapter import locate_adapters
from edgephi.declared.target import read_target
from edgephi.engines.facts.registry import facts_of
from edgephi.errors import BadAdapterError, BadInputError
from edgephi.runtime import load
from edgephi.runtime.adapter import Engine, open_engine
from edgephi.runtime.session import Options
from edgephi.steps import silent
from tests.agreement.conftest import PROVIDER, RECIPE, TARGETS, Bundle, engine_of
from tests.checkpoint.adapter.peft_adapter import peft, save_adapter
from tests.export.oracle import Floats, expected_logits, mean_kl, transformers_model
from tests.runtime.engines.cache_behaviour import some_ids

LARGEST_KL = 2e-3
SWITCHING = [
    target
    for target in TARGETS
    if importlib.util.find_spec(f"edgephi.export.{facts_of(read_target(target).engine).exporter}.adapter")
]
IDS = some_ids(48)


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return find_checkpoint("demo", RECIPE, None, progress=False).folder


@pytest.fixture(scope="module")
def saved(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters: of all fused matrices, and of some under Llama's names in the last layers."""
    folder = tmp_path_factory.mktemp("saved")
    some: dict[str, Any] = {"target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"]}
    some["layers_to_transform"] = [1, 2]
    return {
        "tea": save_adapter(checkpoint, folder / "tea", seed=1),
        "coffee": save_adapter(
            checkpoint, folder / "coffee", seed=2, split=True, r=6, use_rslora=True, **some
        ),
    }


@pytest.fixture(scope="module")
def built(demo: Bundle, saved: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The artifact with both adapters for a target's bundle."""
    folder = tmp_path_factory.mktemp("adapters")

    def artifact(target: str) -> Path:
        place = folder / target
        if not place.exists():
            named = [
                NamedAdapter(name, *locate_adapters([f"{path}@0.5" if name == "coffee" else str(path)]))
                for name, path in saved.items()
            ]
            located = find_checkpoint("demo", RECIPE, None, progress=False)
            build_adapters(AdaptersRequest(demo(target), tuple(named), place, "off"), located, silent)
        return place

    return artifact


def with_adapters(bundle: Path, artifact: Path) -> Engine:
    return open_engine(bundle, read_manifest(artifact), provider=PROVIDER, beside=artifact)


def logits_of(engine: Engine, ids: Sequence[int], adapter: str = "") -> Floats:
    return np.concatenate([*engine.logits(ids, step=32, adapter=adapter)])


def cached_logits(engine: Engine, ids: Sequence[int], adapter: str = "") -> Floats:
    cache = engine.open_cache(len(ids) + 1, adapter=adapter)
    for _ in cache.append(ids):
        pass
    return cache.logits().copy()


@pytest.mark.parametrize("target", SWITCHING)
def test_switched_on_the_logits_are_those_of_pefts_model_of_the_same_weights(
    demo: Bundle, built: Bundle, checkpoint: Path, saved: dict[str, Path], target: str
) -> None:
    engine = with_adapters(demo(target), built(target))
    model = transformers_model(checkpoint, demo("cpu") / ARTIFACT_FOLDER)
    plain = expected_logits(model, IDS)
    with_tea = expected_logits(peft.PeftModel.from_pretrained(model, saved["tea"]), IDS)
    found = logits_of(engine, IDS, "tea")
    assert mean_kl(with_tea, found) <= LARGEST_KL
    assert mean_kl(plain, found) > 50 * LARGEST_KL  # it is not the base that agrees
    assert np.abs(cached_logits(engine, IDS, "tea") - found[-1]).max() < 0.1


@pytest.mark.parametrize("target", SWITCHING)
def test_an_adapter_under_llamas_names_and_at_half_strength_is_the_merged_model(
    demo: Bundle, built: Bundle, checkpoint: Path, saved: dict[str, Path], target: str
) -> None:
    """Parts of a matrix have matrices of their own there; ours are one, in all engines the same."""
    from edgephi.build.switched_adapters.adapted_weights import AdaptedWeights
    from edgephi.checkpoint.adapter.low_rank_factors import low_rank_factors
    from edgephi.checkpoint.checkpoint import open_checkpoint
    from edgephi.export.exporter import exporter
    from edgephi.reference.forward import final_hidden_states, logits_blocks

    (adapter,) = locate_adapters([f"{saved['coffee']}@0.5"])
    opened = open_checkpoint(checkpoint, id="demo", revision="local")
    stored = exporter(read_manifest(demo(target)).target.engine).artifact_weights(
        demo(target) / ARTIFACT_FOLDER, opened.architecture
    )
    adapted = AdaptedWeights(stored, low_rank_factors(opened, adapter))
    (hidden,) = final_hidden_states([adapted], [IDS])
    expected = np.concatenate([*logits_blocks(adapted, hidden)])
    engine = with_adapters(demo(target), built(target))
    assert mean_kl(expected, logits_of(engine, IDS, "coffee")) <= LARGEST_KL


@pytest.mark.parametrize("target", SWITCHING)
def test_off_it_is_the_base_to_the_bit_before_and_after(demo: Bundle, built: Bundle, target: str) -> None:
    plain, engine = engine_of(demo(target)), with_adapters(demo(target), built(target))
    expected = logits_of(plain, IDS)
    if target == "cuda":  # a CPU computes its float16 graph with casts, and rounds where the sum is
        assert mean_kl(expected, logits_of(engine, IDS)) < 1e-4
        return
    np.testing.assert_array_equal(logits_of(engine, IDS), expected)
    once = logits_of(engine, IDS, "tea")
    assert np.abs(once - expected).max() > 0.1
    np.testing.assert_array_equal(logits_of(engine, IDS), expected)
    np.testing.assert_array_equal(cached_logits(engine, IDS), cached_logits(plain, IDS))


@pytest.mark.parametrize("target", SWITCHING)
def test_caches_of_all_of_them_live_side_by_side(demo: Bundle, built: Bundle, target: str) -> None:
    engine = with_adapters(demo(target), built(target))
    names = ("", "tea", "coffee")
    alone = {name: logits_of(engine, IDS, name)[-1] for name in names}
    caches = {name: engine.open_cache(len(IDS) + 4, adapter=name) for name in names}
    for start in range(0, len(IDS), 16):
        for cache in caches.values():
            for _ in cache.append(IDS[start : start + 16]):
                pass
    forks = {name: cache.fork() for name, cache in caches.items()}
    for name, fork in forks.items():
        if fork is not None:
            fork.rewind(len(IDS) - 1)
            assert [*fork.append(IDS[-1:])] == [1]
            assert np.abs(fork.logits() - alone[name]).max() < 0.1
    for name, cache in caches.items():
        assert np.abs(cache.logits() - alone[name]).max() < 0.1
    assert np.abs(alone["tea"] - alone["coffee"]).max() > 0.5


@pytest.mark.parametrize("target", SWITCHING)
def test_a_session_answers_with_what_its_options_name(demo: Bundle, built: Bundle, target: str) -> None:
    """Nothing that is computed with one adapter is taken for the beginning of another's answer."""
    session = load(demo(target), adapter=built(target), provider=PROVIDER, warn=lambda _: None)
    assert session.adapter == "tea"
    prompt = "turn on the kitchen light"

    def said(adapter: str | None) -> tuple[str, int]:
        found = session.generate(prompt, Options(max_tokens=8, adapter=adapter))
        return found.text, found.reused_tokens

    first = said(None)
    assert said("tea")[0] == first[0]
    assert said("tea")[1] > 0
    _, reused = said("coffee")
    assert reused == 0
    base, reused = said("")
    assert reused == 0
    plain = load(demo(target), provider=PROVIDER, warn=lambda _: None)
    assert base == plain.generate(prompt, Options(max_tokens=8)).text
    with pytest.raises(BadInputError, match="tea, coffee; found 'milk'"):
        session.generate(prompt, Options(adapter="milk"))


@pytest.mark.parametrize("target", SWITCHING)
def test_a_file_that_is_no_adapter_is_one_error(
    demo: Bundle, built: Bundle, target: str, tmp_path: Path
) -> None:
    artifact = built(target)
    (known, *_) = read_manifest(artifact).adapters
    broken = tmp_path / known.file
    for path in artifact.rglob("*"):
        if path.is_file():
            place = tmp_path / path.relative_to(artifact)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    broken.write_bytes(broken.read_bytes()[:100])
    manifest = dataclasses.replace(read_manifest(artifact))
    engine = open_engine(demo(target), manifest, provider=PROVIDER, beside=tmp_path)
    with pytest.raises(BadAdapterError, match="expected an adapter for this model"):
        engine.open_cache(8, adapter="tea")
    assert np.isfinite(cached_logits(engine, IDS)).all()
