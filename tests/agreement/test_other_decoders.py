"""A mixture of experts and block-sparse attention on every engine that computes them: the same numbers.

The experts are a trained model's, whose router has close decisions. What an engine rounds may change one, and
then a token goes to another expert: that is counted as any other difference.
"""

import itertools
from pathlib import Path

import numpy as np
import pytest

from edgephi.bundle.manifest import ARTIFACT_FOLDER, read_manifest
from edgephi.checkpoint.config import load_architecture
from edgephi.errors import NotSupportedError
from edgephi.export.exporter import exporter
from edgephi.export.stream.packed_tensor import row_count
from edgephi.runtime.session import Session
from tests.agreement.conftest import PROVIDER, TARGETS, Bundle, build_for, engine_of
from tests.demo.moe_demo import MOE_DEMO, some_held_out_commands
from tests.export.oracle import Floats, mean_kl
from tests.tiny_phi3small import UNUSED, write_tiny_phi3small

COMMANDS = 24
LARGEST_KL = 1e-3
REFUSING = ("gguf",)
COMPUTING = [target for target in TARGETS if target not in REFUSING]
PAIRS = [*itertools.combinations(COMPUTING, 2)]


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return built_once(str(MOE_DEMO), tmp_path_factory.mktemp("experts"))


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Blocks of 64 tokens, 16 of them near, as published: sparse from the 1,025th token on."""
    folder = tmp_path_factory.mktemp("sparse")
    tiny = write_tiny_phi3small(folder / "tiny", layers=2, hidden=128, ffn=128, heads=4)
    return built_once(str(tiny), folder, context=2048)


def built_once(model: str, folder: Path, *, context: int | None = None) -> Bundle:
    def bundle(target: str) -> Path:
        place = folder / target
        return place if place.exists() else build_for(target, model, place, context=context)

    return bundle


def questions(bundle: Path) -> list[list[int]]:
    """What is asked, as tokens."""
    session = Session(bundle, read_manifest(bundle), provider=PROVIDER)
    return [session.engine.encode(session.render(each.prompt)) for each in some_held_out_commands(COMMANDS)]


def test_the_reference_reads_the_same_experts_from_each_artifact(experts: Bundle) -> None:
    architecture = load_architecture(MOE_DEMO)
    weights = [
        exporter(read_manifest(experts(target)).target.engine).artifact_weights(
            experts(target) / ARTIFACT_FOLDER, architecture
        )
        for target in COMPUTING
    ]
    for tensor, shape in architecture.tensor_shapes().items():
        first, *others = (each.rows(tensor, 0, row_count(shape)) for each in weights)
        for found in others:
            np.testing.assert_allclose(found, first, rtol=1e-3 if len(shape) == 1 else 0, err_msg=str(tensor))


@pytest.fixture(scope="module")
def expert_logits(experts: Bundle) -> dict[str, Floats]:
    """Logits of every engine after each token of the questions."""
    found = {}
    for target in COMPUTING:
        engine, asked = engine_of(experts(target)), questions(experts(target))
        found[target] = np.concatenate([next(iter(engine.logits(each, step=len(each)))) for each in asked])
    return found


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_logits_of_experts_agree_in_pairs(expert_logits: dict[str, Floats], pair: tuple[str, str]) -> None:
    one, other = pair
    assert mean_kl(expert_logits[one], expert_logits[other]) <= LARGEST_KL


@pytest.fixture(scope="module")
def sparse_logits(sparse: Bundle) -> dict[str, Floats]:
    """Logits of every engine after each of 1,400 tokens, without those of unused ones."""
    ids = [int(token) for token in np.random.default_rng(3).integers(3, 299, 1400)]
    found = {}
    for target in COMPUTING:
        every = np.concatenate([*engine_of(sparse(target)).logits(ids, step=256)])
        assert (every[:, UNUSED] <= np.finfo(np.float16).min).all()
        found[target] = np.delete(every, UNUSED, axis=1)
    return found


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_logits_of_sparse_attention_agree_in_pairs(
    sparse_logits: dict[str, Floats], pair: tuple[str, str]
) -> None:
    one, other = (sparse_logits[target] for target in pair)
    assert mean_kl(one[:1024], other[:1024]) <= LARGEST_KL
    assert mean_kl(one[1024:], other[1024:]) <= LARGEST_KL


@pytest.mark.parametrize("target", [target for target in TARGETS if target in REFUSING])
def test_an_engine_that_computes_another_model_refuses_experts(tmp_path: Path, target: str) -> None:
    with pytest.raises(NotSupportedError, match=r"Phi-3\.5-MoE"):
        build_for(target, str(MOE_DEMO), tmp_path / "bundle")
