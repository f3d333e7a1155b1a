"""The OpenVINO artifact of Phi-3-small: what the reference computes with its weights, OpenVINO does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgephi.declared.recipe import Quant
from edgephi.declared.target import read_target
from edgephi.runtime.engines.openvino_genai.decoder import _PagedDecoder, _StatefulDecoder, open_decoder
from tests.export.openvino.artifacts import (
    ROUNDING,
    Artifact,
    check_kernels,
    check_prefixes,
    check_reads_as_openvino,
    check_size,
    export,
    some_ids,
    used,
)
from tests.export.openvino.oracle import MODEL, openvino, pipeline_answer
from tests.export.oracle import Floats, mean_kl
from tests.portable import portable
from tests.tiny_phi3small import UNUSED, write_tiny_phi3small

# Blocks of 16 tokens, of which 4 are near: sparse from the 65th token on.
EARLY: dict[str, Any] = {"block": 16, "local_blocks": 4}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_phi3small(tmp_path_factory.mktemp("phi3small") / "tiny", layers=2, **EARLY)


@pytest.fixture(scope="module")
def artifact(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(tiny, tmp_path_factory.mktemp("phi3small") / "artifact")


def kl(artifact: Artifact, expected: Floats, found: Floats) -> float:
    return mean_kl(used(artifact, expected), used(artifact, found))


class TestAgainstTheReference:
    def test_prompts(self, artifact: Artifact) -> None:
        check_prefixes(artifact, [1, 17, 63, 64, 65, 80, 512])

    @pytest.mark.parametrize("step", [1, 7, 100])
    def test_in_steps(self, artifact: Artifact, step: int) -> None:
        ids = some_ids(200, seed=1)
        assert kl(artifact, artifact.expected(ids), artifact.exact.prefill(ids, step=step)) <= ROUNDING

    def test_with_the_artifacts_own_options(self, artifact: Artifact) -> None:
        ids = some_ids(200, seed=2)
        expected = artifact.expected(ids)
        for step in (200, 32, 1):
            assert kl(artifact, expected, artifact.unchanged.prefill(ids, step=step)) <= 1e-4

    def test_int8_activations_where_the_processor_has_them(self, tiny: Path, tmp_path: Path) -> None:
        rounded = export(tiny, tmp_path / "artifact", target=read_target("openvino"))
        ids = some_ids(200, seed=2)
        assert kl(rounded, rounded.expected(ids), rounded.unchanged.prefill(ids)) <= 3e-3

    def test_heads_that_all_see_the_same(self, tmp_path: Path) -> None:
        tiny = write_tiny_phi3small(tmp_path / "tiny", layers=1, same_for_all_heads=True, **EARLY)
        check_prefixes(export(tiny, tmp_path / "artifact"), [200])

    @pytest.mark.slow
    def test_every_length_around_the_published_window(self, tmp_path: Path) -> None:
        tiny = write_tiny_phi3small(tmp_path / "tiny", layers=2, hidden=128, ffn=64)
        artifact = export(tiny, tmp_path / "artifact")
        check_prefixes(artifact, [1023, 1024, 1025, 2100, 4095, 4096, 4097], last=64)

    @pytest.mark.slow
    def test_every_length_around_the_original_context(self, tmp_path: Path) -> None:
        tiny = write_tiny_phi3small(
            tmp_path / "tiny", layers=1, hidden=64, heads=4, ffn=64, longrope=True, context=131072
        )
        artifact = export(tiny, tmp_path / "artifact", context=8300)
        check_prefixes(artifact, [8191, 8192, 8193], last=64)

    def test_long_factors_with_a_magnitude_of_their_own(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"original_context": 100, "context": 1024, "long_magnitude": 1.4}
        tiny = write_tiny_phi3small(tmp_path / "tiny", layers=2, longrope=True, **options, **EARLY)
        check_prefixes(export(tiny, tmp_path / "artifact"), [99, 100, 101, 200])


def test_the_sparsity_matters(artifact: Artifact, tmp_path: Path) -> None:
    dense = write_tiny_phi3small(tmp_path / "tiny", layers=2, dense_every=1, **EARLY)
    ids = some_ids(200)
    everything, part = export(dense, tmp_path / "artifact").exact.prefill(ids), artifact.exact.prefill(ids)
    np.testing.assert_allclose(part[:64], everything[:64], atol=1e-3)
    assert kl(artifact, everything[80:], part[80:]) > 1e-3


@pytest.mark.parametrize(
    "quant",
    [
        portable(group_size=64, method="rtn"),
        portable(group_size=32, symmetric=False, embedding_bits=8, head_bits=8, method="rtn"),
        portable(bits=8, group_size=64, embedding_bits=8, head_bits=8, symmetric=False, method="rtn"),
    ],
    ids=lambda quant: f"{quant.bits}-{quant.group_size}-{quant.symmetric}",
)
def test_every_kind_of_quantisation(tiny: Path, tmp_path: Path, quant: Quant) -> None:
    made = export(tiny, tmp_path / "artifact", quant=quant)
    check_prefixes(made, [1, 100])
    check_reads_as_openvino(made)
    check_kernels(made)
    check_size(made)


class TestPagedAttention:
    """It has no masks. Made of a sparse model it would have every head see everything."""

    def test_no_such_graph_can_be_made_of_a_sparse_model(self, artifact: Artifact) -> None:
        from openvino._offline_transformations import paged_attention_transformation

        with pytest.raises(RuntimeError, match="attention_mask"):
            paged_attention_transformation(openvino.Core().read_model(artifact.folder / MODEL))

    def test_the_runtime_has_another_cache_then(self, artifact: Artifact) -> None:
        decoder = open_decoder(openvino, artifact.folder / MODEL, device="CPU")
        assert isinstance(decoder, _StatefulDecoder)

    def test_the_engines_own_pipeline_has_too(self, artifact: Artifact) -> None:
        ids = some_ids(150, seed=4)
        answer = pipeline_answer(artifact.folder, ids, 12)
        logits = artifact.expected([*ids, *answer[:-1]])[len(ids) - 1 :]
        for row, token in zip(logits, answer, strict=True):
            assert row.max() - row[token] < 0.05

    def test_a_context_in_which_all_is_dense_has_it(self, tmp_path: Path) -> None:
        tiny = write_tiny_phi3small(tmp_path / "tiny", layers=1)
        dense = export(tiny, tmp_path / "artifact", context=1024)
        decoder = open_decoder(openvino, dense.folder / MODEL, device="CPU")
        assert isinstance(decoder, _PagedDecoder)
        ids = some_ids(300)
        cache = decoder.open_cache(1024, decoder.branches.factors({}))
        found = cache.compute(ids, past=0, total=300, kept=300)
        assert kl(dense, dense.expected(ids), found) <= 1e-4


@pytest.mark.parametrize("kept", [1, 10, 64, 65, 130, 200])
def test_long_pieces_are_computed_in_shorter_ones(artifact: Artifact, kept: int) -> None:
    """The masks of all heads would take more memory than the scores that a plan counts."""
    decoder = open_decoder(openvino, artifact.folder / MODEL, device="CPU")
    ids = some_ids(200, seed=3)
    found = decoder.open_cache(256, decoder.branches.factors({})).compute(ids, past=0, total=200, kept=kept)
    assert len(found) == kept
    assert kl(artifact, artifact.expected(ids)[-kept:], found) <= 1e-4


def test_unused_tokens_are_never_the_likeliest(artifact: Artifact) -> None:
    found = artifact.unchanged.prefill(some_ids(20))
    assert (found[:, list(UNUSED)] == np.finfo(np.float32).min).all()


class TestFiles:
    def test_our_reader_is_openvinos(self, artifact: Artifact) -> None:
        check_reads_as_openvino(artifact)

    def test_the_plugin_uses_its_kernels(self, artifact: Artifact) -> None:
        check_kernels(artifact)

    def test_the_size_is_known_beforehand(self, artifact: Artifact) -> None:
        check_size(artifact)
