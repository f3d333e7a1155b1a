"""Codes found layer by layer: better than one by one, and the same ones after an interruption."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgephi.build.calibrating.calibrate import (
    CALIBRATED_TOKENS,
    LEAST_TOKENS,
    calibrate,
    calibration_passages,
    kept_bytes,
)
from edgephi.build.calibrating.progress_on_disk import kept_beside
from edgephi.build.tensor_plans import plan_tensors
from edgephi.checkpoint.checkpoint import Checkpoint, CheckpointWeights, open_checkpoint
from edgephi.checkpoint.roles import EMBEDDING, HEAD, ModelTensor
from edgephi.declared.recipe import Quant
from edgephi.errors import BadCheckpointError, BadInputError, DoesNotFitError, QualityGateError
from edgephi.quantize.folding import FoldedWeights, weigh
from edgephi.quantize.groups import restored
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.tensor_plan import TensorPlans
from edgephi.reference.forward import final_hidden_states, logits
from edgephi.reference.importance import measure_importance
from edgephi.reference.weights import Weights
from edgephi.steps import silent
from tests.tiny_checkpoint import TinyShape, tiny_weights, write_tiny_checkpoint, write_weights

SHAPE = TinyShape(layers=3, hidden=128, ffn=192, heads=2, kv_heads=1)
QUANT = Quant("calibrated", 4, 32, symmetric=False, embedding_bits=8, head_bits=4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny-phi", SHAPE)
    return open_checkpoint(folder, id="tiny", revision="local")


@pytest.fixture(scope="module")
def passages() -> list[list[int]]:
    """Token ids that follow each other as words do: which come next depends on the one before."""
    return passages_of(0)


def passages_of(seed: int) -> list[list[int]]:
    followers = np.random.default_rng(5).integers(0, SHAPE.vocab, (SHAPE.vocab, 3))
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(16):
        ids = [int(rng.integers(SHAPE.vocab))]
        while len(ids) < LEAST_TOKENS // 16:
            ids.append(int(rng.choice(followers[ids[-1]])))
        found.append(ids)
    return found


@pytest.fixture(scope="module")
def plans(checkpoint: Checkpoint, passages: list[list[int]]) -> TensorPlans:
    weights = CheckpointWeights(checkpoint)
    importance = measure_importance(weights, passages[:4])
    return weigh(plan_tensors(checkpoint.architecture, QUANT), importance, weights)


class Stored:
    """The weights that plans store."""

    def __init__(self, checkpoint: Checkpoint, plans: TensorPlans) -> None:
        self.architecture = checkpoint.architecture
        self._folded = FoldedWeights(CheckpointWeights(checkpoint), plans)
        self._plans = plans

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> np.ndarray:
        plan, weights = self._plans[tensor], self._folded.rows(tensor, start, stop)
        if plan.scheme is None:
            return weights
        return restored(Quantizer().quantize(weights, plan.of_rows(start, stop)), plan.scheme)


def outputs(weights: Weights, passages: Sequence[Sequence[int]]) -> np.ndarray:
    (hidden,) = final_hidden_states([weights], passages)
    return logits(weights, hidden)


def codes_in(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.npy")}


def interrupting(
    after: int, error: BaseException
) -> Callable[..., contextlib.AbstractContextManager[Callable[[int], None]]]:
    """Steps that raise `error` when so many matrices are found."""
    left = [after]

    @contextlib.contextmanager
    def step(_title: str, _size: int) -> Iterator[Callable[[int], None]]:
        def done(count: int) -> None:
            left[0] -= count
            if left[0] <= 0:
                raise error

        yield done

    return step


class TestCodes:
    def test_logits_are_nearer_to_the_original_ones(
        self, checkpoint: Checkpoint, plans: TensorPlans, passages: list[list[int]], tmp_path: Path
    ) -> None:
        found = calibrate(checkpoint, plans, passages, tmp_path / "codes", silent)
        weighted = {tensor: replace(plan, method="weighted") for tensor, plan in plans.items()}
        others = passages_of(1)
        original = outputs(CheckpointWeights(checkpoint), others)
        lost, lost_before = (
            np.square(outputs(Stored(checkpoint, each), others) - original).mean()
            for each in (found, weighted)
        )
        assert lost < 0.85 * lost_before

    def test_matrices_of_few_bits_that_multiply_are_found(
        self, checkpoint: Checkpoint, plans: TensorPlans, passages: list[list[int]], tmp_path: Path
    ) -> None:
        found = calibrate(checkpoint, plans, passages, tmp_path / "codes", silent)
        assert len(codes_in(tmp_path / "codes")) == 4 * SHAPE.layers + 1
        assert [str(tensor) for tensor, plan in found.items() if plan.scheme and not plan.found] == [
            "embedding"
        ]
        assert found[HEAD].found is not None
        assert sum(map(len, codes_in(tmp_path / "codes").values())) < kept_bytes(
            checkpoint.architecture, plans
        )

    def test_a_tied_matrix_is_found_as_the_head_that_it_is(
        self, passages: list[list[int]], tmp_path: Path
    ) -> None:
        folder = write_tiny_checkpoint(tmp_path / "tied", SHAPE, tied=True, layers=1)
        checkpoint = open_checkpoint(folder, id="tied", revision="local")
        plans = plan_tensors(checkpoint.architecture, replace(QUANT, embedding_bits=4))
        found = calibrate(checkpoint, plans, passages[:4], tmp_path / "codes", silent)
        assert found[EMBEDDING].found is not None

    def test_weights_that_no_code_can_hold_are_named(self, passages: list[list[int]], tmp_path: Path) -> None:
        folder = write_tiny_checkpoint(tmp_path / "broken", SHAPE)
        weights = tiny_weights(SHAPE)
        weights["model.layers.1.mlp.down_proj.weight"][100, 7] = np.inf
        write_weights(folder, weights)
        checkpoint = open_checkpoint(folder, id="broken", revision="local")
        plans = plan_tensors(checkpoint.architecture, QUANT)
        with pytest.raises(
            BadCheckpointError, match="down of layer 1: expected finite weights, found NaN or inf"
        ):
            calibrate(checkpoint, plans, passages, tmp_path / "codes", silent)

    def test_without_passages_nothing_is_done(
        self, checkpoint: Checkpoint, plans: TensorPlans, tmp_path: Path
    ) -> None:
        assert calibrate(checkpoint, plans, [], tmp_path / "codes", silent) is plans
        assert not (tmp_path / "codes").exists()


class TestGoingOn:
    @pytest.mark.parametrize("after", [1, 4, 6, 11, 12, 13])
    def test_an_interruption_does_not_show_in_the_codes(
        self,
        after: int,
        checkpoint: Checkpoint,
        plans: TensorPlans,
        passages: list[list[int]],
        tmp_path: Path,
    ) -> None:
        calibrate(checkpoint, plans, passages, tmp_path / "whole", silent)
        with pytest.raises(KeyboardInterrupt):
            calibrate(
                checkpoint, plans, passages, tmp_path / "parts", interrupting(after, KeyboardInterrupt())
            )
        left = []

        @contextlib.contextmanager
        def counting(_title: str, size: int) -> Iterator[Callable[[int], None]]:
            left.append(size)
            yield lambda _: None

        calibrate(checkpoint, plans, passages, tmp_path / "parts", counting)
        assert codes_in(tmp_path / "parts") == codes_in(tmp_path / "whole")
        # The layer that was interrupted begins anew: four matrices each, then the head.
        assert left == [4 * SHAPE.layers + 1 - min(after - 1, 4 * SHAPE.layers) // 4 * 4]

    def test_another_text_or_plan_begins_anew(
        self, checkpoint: Checkpoint, plans: TensorPlans, passages: list[list[int]], tmp_path: Path
    ) -> None:
        calibrate(checkpoint, plans, passages, tmp_path / "codes", silent)
        before = codes_in(tmp_path / "codes")
        calibrate(checkpoint, plans, passages[1:], tmp_path / "codes", silent)
        assert codes_in(tmp_path / "codes") != before
        symmetric = weigh(
            plan_tensors(checkpoint.architecture, replace(QUANT, symmetric=True)),
            measure_importance(CheckpointWeights(checkpoint), passages[:1]),
            CheckpointWeights(checkpoint),
        )
        calibrate(checkpoint, symmetric, passages[1:], tmp_path / "codes", silent)
        calibrate(checkpoint, plans, passages, tmp_path / "codes", silent)
        assert codes_in(tmp_path / "codes") == before


class TestWhatIsKept:
    def interrupt(self, bundle: Path, error: BaseException, *, layers: int = 2) -> BaseException:
        with (
            pytest.raises(type(error)) as raised,
            kept_beside(bundle, wanted=True) as folder,
        ):
            folder.mkdir()
            (folder / f"before-layer-{layers}").touch()
            raise error
        return raised.value

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), DoesNotFitError("full", hint="")])
    def test_an_interruption_leaves_what_is_found_and_says_so(
        self, tmp_path: Path, error: BaseException
    ) -> None:
        raised = self.interrupt(tmp_path / "out", error)
        assert (tmp_path / ".out.calibrating").is_dir()
        (note,) = raised.__notes__
        assert note.startswith("2 finished layers are kept")
        assert str(tmp_path / ".out.calibrating") in note

    @pytest.mark.parametrize("error", [BadInputError("broken", hint=""), QualityGateError("bad", hint="")])
    def test_a_build_that_would_fail_again_leaves_nothing(self, tmp_path: Path, error: BaseException) -> None:
        self.interrupt(tmp_path / "out", error)
        assert not list(tmp_path.iterdir())

    def test_before_a_layer_is_done_there_is_nothing_to_keep(self, tmp_path: Path) -> None:
        self.interrupt(tmp_path / "out", KeyboardInterrupt(), layers=0)
        assert not list(tmp_path.iterdir())

    def test_a_build_without_calibration_removes_it(self, tmp_path: Path) -> None:
        self.interrupt(tmp_path / "out", KeyboardInterrupt())
        with kept_beside(tmp_path / "out", wanted=False):
            assert not list(tmp_path.iterdir())

    def test_a_build_that_is_done_removes_it(self, tmp_path: Path) -> None:
        self.interrupt(tmp_path / "out", KeyboardInterrupt())
        with kept_beside(tmp_path / "out", wanted=True) as folder:
            assert folder.is_dir()
        assert not list(tmp_path.iterdir())


class TestText:
    def test_too_little_is_refused(self, checkpoint: Checkpoint, tmp_path: Path) -> None:
        (tmp_path / "short.txt").write_text("All that they say.\n" * 20)
        plans = plan_tensors(checkpoint.architecture, QUANT)
        with pytest.raises(BadInputError, match=r"expected 4,096 tokens of text .*, found \d+") as refused:
            calibration_passages(plans, checkpoint, tmp_path / "short.txt")
        assert "--calibrate" in refused.value.hint

    def test_a_text_that_is_just_long_enough_is_taken_whole(
        self, checkpoint: Checkpoint, tmp_path: Path
    ) -> None:
        (tmp_path / "some.txt").write_text("All that they say.\n" * 500)
        plans = plan_tensors(checkpoint.architecture, QUANT)
        passages = calibration_passages(plans, checkpoint, tmp_path / "some.txt")
        assert LEAST_TOKENS < sum(map(len, passages)) < CALIBRATED_TOKENS

    def test_other_methods_read_none(self, checkpoint: Checkpoint, tmp_path: Path) -> None:
        plans = plan_tensors(checkpoint.architecture, replace(QUANT, method="weighted"))
        assert calibration_passages(plans, checkpoint, tmp_path / "none.txt") == ()
