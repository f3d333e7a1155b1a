"""Phi-3-small as an ONNX artifact: what the reference computes, the engine computes too."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgephi.checkpoint.roles import EMBEDDING
from edgephi.declared.recipe import Quant
from edgephi.declared.target import Kernels
from edgephi.export.tensor_names import tensor_name
from tests.export.onnx.artifacts import (
    FLOAT16,
    INT8,
    LIMIT,
    Artifact,
    append,
    check,
    check_opens,
    check_reads_as_the_onnx_library,
    divergences,
    export,
    some_ids,
)
from tests.export.oracle import tensors_of
from tests.portable import portable
from tests.tiny_phi3small import UNUSED, TinySmall, write_tiny_phi3small

CONTEXT = 8192
DENSE = 1024  # tokens, of which each sees all before it


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_phi3small(tmp_path_factory.mktemp("tiny") / "phi3small")


@pytest.fixture(scope="module")
def exact(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """With float32 activations."""
    return export(tiny, tmp_path_factory.mktemp("exact") / "model", context=CONTEXT)


class TestAgainstTheReference:
    @pytest.mark.parametrize("length", [1, 17, 512])
    def test_one_prefill(self, exact: Artifact, length: int) -> None:
        check(exact, some_ids(length), piece=length)

    @pytest.mark.parametrize("piece", [100, 512])
    @pytest.mark.parametrize("length", [DENSE - 1, DENSE, DENSE + 1, 2100])
    def test_in_pieces(self, exact: Artifact, length: int, piece: int) -> None:
        check(exact, some_ids(length, seed=1), piece=piece)

    def test_4097_tokens(self, exact: Artifact) -> None:
        check(exact, some_ids(4097, seed=2), piece=512)

    def test_token_by_token_past_what_is_dense(self, exact: Artifact) -> None:
        ids = some_ids(DENSE + 130, seed=3)
        generator = exact.generator(CONTEXT)
        append(generator, ids[: DENSE - 2], 512)
        found = append(generator, ids[DENSE - 2 :], 1)
        assert divergences(exact.expected(ids)[DENSE - 2 :], found).mean() <= LIMIT

    def test_after_a_rewind(self, exact: Artifact) -> None:
        ids = some_ids(1500, seed=4)
        generator = exact.generator(1501)
        append(generator, [*ids[:1100], 7, 8, 9], 512)
        generator.rewind_to(1100)
        found = append(generator, ids[1100:], 64)
        assert divergences(exact.expected(ids)[1100:], found).mean() <= LIMIT

    @pytest.mark.parametrize("length", [1025, 1100, 1333])
    def test_a_cache_of_any_length(self, exact: Artifact, length: int) -> None:
        ids = some_ids(1025, seed=5)
        found = exact.in_pieces(ids, 512, length=length)
        assert divergences(exact.expected(ids), found).mean() <= LIMIT

    def test_what_is_not_seen_matters(self, exact: Artifact, tmp_path: Path) -> None:
        """The tests above would see a graph whose layers are all dense, or whose heads are all alike."""
        ids = some_ids(2100, seed=1)
        expected = exact.expected(ids)[-64:]
        for name, tiny in (
            ("dense", TinySmall(dense_every=1)),
            ("alike", TinySmall(same_for_all_heads=True)),
        ):
            folder = write_tiny_phi3small(tmp_path / name, tiny)
            other = export(folder, tmp_path / f"{name}-model", context=CONTEXT)
            assert divergences(expected, other.in_pieces(ids, 512)[-64:]).mean() > 100 * LIMIT

    def test_heads_that_are_all_alike(self, tmp_path: Path) -> None:
        folder = write_tiny_phi3small(tmp_path / "tiny", same_for_all_heads=True)
        check(export(folder, tmp_path / "model", context=2048), some_ids(1400), piece=512)


SWITCH = 8192


class TestLongRope:
    """A Phi-3-small of 128k tokens, on both sides of its original context. Its magnitudes differ, too."""

    @pytest.fixture(scope="class")
    @classmethod
    def longrope(cls, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
        folder = tmp_path_factory.mktemp("longrope")
        # Two heads: the engine's own loop computes the whole text again, in one piece.
        sizes = TinySmall(layers=2, heads=2, kv_heads=1, context=131072, longrope=True)
        return export(write_tiny_phi3small(folder / "tiny", sizes), folder / "model", context=SWITCH + 200)

    @pytest.mark.parametrize("length", [SWITCH - 1, SWITCH, SWITCH + 1])
    def test_in_pieces_that_are_told_how_long_the_text_is(self, longrope: Artifact, length: int) -> None:
        ids = some_ids(length, seed=6)
        found = append(longrope.generator(length, told=length), ids, 512)
        assert divergences(longrope.expected(ids), found).mean() <= LIMIT

    @pytest.mark.slow
    def test_the_engines_own_loop_passes_the_original_context(self, longrope: Artifact) -> None:
        generator = longrope.generator(SWITCH + 4)
        generator.append_tokens(some_ids(SWITCH - 1, seed=7))
        computed = []
        for _ in range(4):
            generator.generate_next_token()
            computed.append(generator.get_output("logits")[0])
        assert [len(logits) for logits in computed[1:]] == [1, SWITCH + 1, 1]
        tokens = [int(token) for token in generator.get_sequence(0)]
        for steps in (1, 3):
            expected = longrope.expected(tokens[: SWITCH - 1 + steps])[-1:]
            assert divergences(expected, computed[steps][-1:]).mean() <= LIMIT

    def test_its_type_is_the_one_that_prefills_again(self, longrope: Artifact) -> None:
        config = json.loads((longrope.folder / "genai_config.json").read_text())
        assert config["model"]["type"] == "phi3small"
        assert "chunk_size" not in config["search"]


@pytest.mark.parametrize(("kernels", "limit"), [(INT8, 1e-3), (FLOAT16, 1e-5)], ids=["int8", "float16"])
def test_coarser_activations(tiny: Path, tmp_path: Path, kernels: Kernels, limit: float) -> None:
    check(
        export(tiny, tmp_path / "model", kernels=kernels, context=2048),
        some_ids(1200),
        piece=512,
        limit=limit,
    )


QUANTS = [portable(group_size=64, symmetric=False), portable(group_size=32, embedding_bits=8)]


@pytest.mark.parametrize("quant", QUANTS, ids=str)
def test_every_kind_of_groups(tiny: Path, tmp_path: Path, quant: Quant) -> None:
    artifact = export(tiny, tmp_path / "model", quant=quant, context=64)
    check(artifact, some_ids(40), piece=40)
    check_reads_as_the_onnx_library(artifact)


class TestFiles:
    def test_ids_that_no_text_has_get_the_least_number(self, exact: Artifact) -> None:
        found = exact.in_pieces(some_ids(5), 5)
        assert (found[:, list(UNUSED)] == np.finfo(np.float32).min).all()

    def test_a_context_in_which_all_is_dense_needs_no_sparse_operator(
        self, tiny: Path, tmp_path: Path, exact: Artifact
    ) -> None:
        for artifact, expected in ((exact, 2), (export(tiny, tmp_path / "model", context=DENSE), 0)):
            operators = [node.op_type for node in artifact.model.graph.node]
            assert operators.count("SparseAttention") == expected
            assert operators.count("GroupQueryAttention") == 4 - expected

    def test_prompts_are_computed_in_chunks(self, exact: Artifact) -> None:
        config = json.loads((exact.folder / "genai_config.json").read_text())
        assert config["search"]["chunk_size"] == 512
        assert config["search"]["past_present_share_buffer"]

    def test_our_reader_is_the_onnx_librarys(self, exact: Artifact) -> None:
        check_reads_as_the_onnx_library(exact)

    def test_one_matrix_is_embedding_and_head(self, exact: Artifact) -> None:
        found = tensors_of(exact.folder)
        np.testing.assert_array_equal(found["lm_head.weight"], found[tensor_name(EMBEDDING)])

    def test_the_graph_is_sound(self, exact: Artifact) -> None:
        check_opens(exact)
        onnxruntime.InferenceSession(exact.folder / "model.onnx")


class TestForCuda:
    """Its graph, on the CPU: there is no GPU where these tests run."""

    def test_the_graph_is_sound_and_computes_the_same(self, tiny: Path, tmp_path: Path) -> None:
        cuda = export(tiny, tmp_path / "model", kernels=FLOAT16, context=2048, target="cuda")
        check_opens(cuda)
        check(cuda, some_ids(1300), piece=512, limit=1e-5)
        found = cuda.in_pieces(some_ids(5), 5)
        assert (found[:, list(UNUSED)] == np.finfo(np.float16).min).all()
