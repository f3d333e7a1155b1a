"""`edgephi tune`: the choice, and the arithmetic behind it."""

import dataclasses
import json
from pathlib import Path

import pytest

from edgephi.build.build import find_checkpoint
from edgephi.build.choosing.tune import (
    Measure,
    Times,
    Tuning,
    Variant,
    cut_depths,
    extrapolate,
    tune,
    variants,
)
from edgephi.build.shapes import architecture_of
from edgephi.bundle.manifest import read_manifest
from edgephi.declared.recipe import read_recipe
from edgephi.declared.target import read_target
from edgephi.errors import CannotServeError, DoesNotFitError
from edgephi.machine.measurement import BenchRequest, Measurement, Speed
from edgephi.runtime.proof.measure import measure
from edgephi.steps import silent
from tests.cli.conftest import Edgephi, is_one_error
from tests.tiny_checkpoint import write_tiny_checkpoint

CPU = read_target("cpu")
REQUEST = BenchRequest((8,), 4)
PHI = read_recipe("phi-3-mini-4k")
assert PHI.model.shape is not None
PHI_SHAPE = architecture_of(PHI.model.shape)


class TestDepths:
    def test_a_model_of_32_layers(self) -> None:
        assert cut_depths(PHI_SHAPE, 4, cache_bytes=0) == (4, 12)

    def test_the_cut_must_not_fit_into_the_cache(self) -> None:
        """A layer of Phi-3-mini has 113 million weights, 57 MB of them at 4 bit."""
        first, second = cut_depths(PHI_SHAPE, 4, cache_bytes=200_000_000)
        assert first * 56.6e6 >= 2 * 200e6
        assert (first - 1) * 56.6e6 < 2 * 200e6
        assert second == 3 * first
        assert cut_depths(PHI_SHAPE, 4, cache_bytes=300_000_000) == (11, 22)

    def test_a_small_model_is_measured_whole(self) -> None:
        assert cut_depths(dataclasses.replace(PHI_SHAPE, layers=4), 4, cache_bytes=0) == (4,)
        assert cut_depths(PHI_SHAPE, 4, cache_bytes=1 << 30) == (32,)


class TestExtrapolation:
    def test_times_that_lie_on_a_line(self) -> None:
        def times(layers: int) -> Times:
            return Times(load=1 + 0.1 * layers, prompt=2 + 0.5 * layers, token=0.01 + 0.004 * layers)

        whole = extrapolate({4: times(4), 12: times(12)}, 32)
        assert dataclasses.astuple(whole) == pytest.approx(dataclasses.astuple(times(32)))

    def test_one_depth_is_the_whole_model(self) -> None:
        assert extrapolate({3: Times(1, 2, 3)}, 3) == Times(1, 2, 3)

    def test_noise_does_not_make_more_layers_faster(self) -> None:
        assert extrapolate({4: Times(1, 2, 3), 12: Times(0.9, 2, 2.9)}, 32) == Times(1, 2, 3)


class TestVariants:
    def test_every_group_size_once(self) -> None:
        found, refused = variants(
            "phi", PHI_SHAPE, PHI, [CPU], context=None, free_bytes=lambda _target: 20_000_000_000
        )
        assert [each.name for each in found] == ["cpu-g32", "cpu-g128"]
        assert refused == []
        assert found[1].plan.artifact_bytes < found[0].plan.artifact_bytes

    def test_a_target_that_dictates_its_groups(self) -> None:
        quant = dataclasses.replace(CPU.quant, group_size=32)
        blocks = dataclasses.replace(CPU, name="blocks", quant=quant)
        found, _ = variants(
            "phi", PHI_SHAPE, PHI, [blocks], context=None, free_bytes=lambda _target: 20_000_000_000
        )
        assert [each.name for each in found] == ["blocks-g32"]

    def test_what_does_not_fit_whole_is_not_tried(self) -> None:
        found, refused = variants(
            "phi", PHI_SHAPE, PHI, [CPU], context=None, free_bytes=lambda _target: 5_000_000_000
        )
        assert found == []
        assert [each.name for each in refused] == ["cpu-g32", "cpu-g128"]
        assert all(isinstance(each.problem, DoesNotFitError) for each in refused)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tune") / "tiny-phi", layers=7, hidden=128, ffn=128)


def candidates(checkpoint: Path) -> list[Variant]:
    from edgephi.checkpoint.config import load_architecture

    found, _ = variants(
        str(checkpoint),
        load_architecture(checkpoint),
        read_recipe("default"),
        [CPU],
        context=None,
        free_bytes=lambda _target: 20_000_000_000,
    )
    return found


def clock_of(seconds_of_a_layer: dict[str, float]) -> Measure:
    """A clock by which every candidate takes a second and some for each layer; others fail."""

    def clock(bundle: Path, _request: BenchRequest) -> Measurement:
        name, _, depth = bundle.name.partition("-first-")
        if name not in seconds_of_a_layer:
            raise CannotServeError("the engine does not like it", hint="use another")
        seconds = 1 + seconds_of_a_layer[name] * int(depth)
        speed = Speed(8, 4, seconds, 8 / seconds, 1 / seconds, 0)
        return Measurement("clock", "1", "cpu", 12, seconds, 0, None, (speed,))

    return clock


def tuned(checkpoint: Path, folder: Path, clock: Measure) -> Tuning:
    return tune(
        str(checkpoint),
        find_checkpoint(str(checkpoint), read_recipe("default"), None, progress=False),
        candidates(checkpoint),
        depths=(2, 6),
        folder=folder,
        request=REQUEST,
        runs=2,
        context=None,
        measure=clock,
        step=silent,
    )


class TestTune:
    def test_cut_bundles_run(self, checkpoint: Path, tmp_path: Path) -> None:
        """With the real engine: each candidate at both depths, as many layers as the plan says."""
        tuning = tuned(checkpoint, tmp_path, measure)
        assert sorted(each.variant.name for each in tuning.estimates) == ["cpu-g128", "cpu-g32"]
        assert tuning.layers == 7
        for estimate in tuning.estimates:
            assert set(estimate.depths) == {2, 6}
            assert estimate.answer_seconds > 0
        answers = [estimate.answer_seconds for estimate in tuning.estimates]
        assert answers == sorted(answers)
        sizes = {}
        for depth in (2, 6):
            manifest = read_manifest(tmp_path / f"cpu-g128-first-{depth}")
            assert f"first-{depth}-layers" in manifest.name
            sizes[depth] = manifest.model.parameters
        a_layer = (sizes[6] - sizes[2]) // 4
        assert candidates(checkpoint)[0].plan.architecture.parameters == sizes[6] + a_layer

    def test_the_fastest_whole_model_is_chosen(self, checkpoint: Path, tmp_path: Path) -> None:
        tuning = tuned(checkpoint, tmp_path, clock_of({"cpu-g128": 0.5, "cpu-g32": 0.4}))
        assert [each.variant.name for each in tuning.estimates] == ["cpu-g32", "cpu-g128"]
        best = tuning.estimates[0]
        assert best.whole.token == pytest.approx(1 + 7 * 0.4)
        assert best.answer_seconds == pytest.approx(4 * (1 + 7 * 0.4))  # the prompt, then three more tokens

    def test_a_candidate_that_fails_is_named(self, checkpoint: Path, tmp_path: Path) -> None:
        tuning = tuned(checkpoint, tmp_path, clock_of({"cpu-g32": 0.4}))
        assert [each.variant.name for each in tuning.estimates] == ["cpu-g32"]
        assert [each.name for each in tuning.refused] == ["cpu-g128"]

    def test_runs_that_differ_are_repeated(self, checkpoint: Path, tmp_path: Path) -> None:
        """A clock that is disturbed in the first runs: three more than asked for bring two that agree."""
        ticks: dict[str, int] = {}

        def clock(bundle: Path, _request: BenchRequest) -> Measurement:
            ticks[bundle.name] = ticks.get(bundle.name, 0) + 1
            disturbed = bundle.name.startswith("cpu-g32")
            seconds = 10.0 / min(ticks[bundle.name], 4) if disturbed else 10.0
            speed = Speed(8, 4, seconds, 8 / seconds, 1 / seconds, 0)
            return Measurement("clock", "1", "cpu", 12, seconds, 0, None, (speed,))

        tuning = tuned(checkpoint, tmp_path, clock)
        assert ticks == {
            **{f"cpu-g128-first-{depth}": 2 for depth in (2, 6)},
            **{f"cpu-g32-first-{depth}": 5 for depth in (2, 6)},
        }
        assert tuning.estimates[0].variant.name == "cpu-g32"
        assert tuning.estimates[0].spread == 0
        assert tuning.estimates[0].whole.prompt == 2.5

    def test_no_candidate_is_left(self, checkpoint: Path, tmp_path: Path) -> None:
        with pytest.raises(DoesNotFitError, match="cpu-g128: the engine does not like it"):
            tuned(checkpoint, tmp_path, clock_of({}))


@pytest.mark.slow
def test_the_command_recommends_what_was_the_fastest(edgephi: Edgephi, tmp_path: Path) -> None:
    arguments = ("tune", "demo", "--prompt-tokens", 16, "--generate", 8, "--runs", 1)
    done = edgephi(*arguments, "--json", "--keep", tmp_path / "kept")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    fastest = min(document["candidates"], key=lambda each: each["answer_seconds"])
    assert document["choice"] == {"target": fastest["target"], "group_size": fastest["group_size"]}
    kept = [read_manifest(folder) for folder in (tmp_path / "kept").iterdir()]
    assert {manifest.target.name for manifest in kept} == {each["target"] for each in document["candidates"]}
    assert {("cpu", 32), ("cpu", 128)} <= {
        (each["target"], each["group_size"]) for each in document["candidates"]
    }
    text = edgephi(*arguments).stdout
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "fastest: edgephi build demo --target " in text


def test_usage_errors(edgephi: Edgephi) -> None:
    for arguments in (["--runs", "0"], ["--generate", "1"], ["--prompt-tokens", "0"]):
        assert is_one_error(edgephi("tune", "demo", *arguments), 2)
