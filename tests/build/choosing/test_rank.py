"""Ranking targets for one machine."""

import dataclasses
import re

import pytest

from edgephi.build.choosing.rank import Candidate, Prospect, check_choice, rank, reason
from edgephi.build.plan import make_plan
from edgephi.build.shapes import architecture_of
from edgephi.declared.recipe import read_recipe
from edgephi.declared.target import Target, read_target
from edgephi.errors import DoesNotFitError, NotSupportedError
from edgephi.machine.provider_memory import ProviderMemory

CPU = read_target("cpu")
BOARD = read_target("raspberry-pi-5-8gb")
RECIPE = read_recipe("phi-3.5-mini")
MEMORY = ProviderMemory("memory", 20_000_000_000, 25e9)
MISSING = NotSupportedError("the engine is not installed", hint="pip install it")


def ranked(*candidates: Candidate, context: int | None = None) -> list[Prospect]:
    assert RECIPE.model.shape is not None
    return rank("phi", architecture_of(RECIPE.model.shape), RECIPE, candidates, context=context)


def named(name: str, target: Target = CPU) -> Target:
    return dataclasses.replace(target, name=name)


def names(prospects: list[Prospect]) -> list[str]:
    return [prospect.candidate.target.name for prospect in prospects]


class TestProspect:
    def test_the_decode_limit_is_bandwidth_over_weights_and_half_the_cache(self) -> None:
        (prospect,) = ranked(Candidate(CPU, MEMORY), context=4096)
        plan = prospect.plan
        assert plan is not None
        cache = 2 * 32 * 3072 * 4 * 2048  # keys and values of all layers in float32, at half of 4,096 tokens
        assert prospect.decode_limit == pytest.approx(25e9 / (plan.artifact_bytes + cache))
        assert prospect.decode_limit is not None and prospect.decode_share is not None
        assert prospect.expected_decode == pytest.approx(prospect.decode_limit * prospect.decode_share)

    def test_the_largest_context_fits_and_the_next_does_not(self) -> None:
        (prospect,) = ranked(Candidate(CPU, MEMORY))
        assert prospect.problem is None
        assert prospect.largest_context > 4096
        assert RECIPE.model.shape is not None

        def need(context: int) -> int:
            assert RECIPE.model.shape is not None
            architecture = architecture_of(RECIPE.model.shape)
            return make_plan("phi", architecture, RECIPE, CPU, context=context).memory.total

        assert need(prospect.largest_context) <= MEMORY.free_bytes < need(prospect.largest_context + 512)

    def test_a_devices_own_memory_does_not_count_here(self) -> None:
        (prospect,) = ranked(Candidate(BOARD, MEMORY), context=8192)
        assert prospect.problem is None

    def test_what_does_not_fit_says_what_would(self) -> None:
        (prospect,) = ranked(Candidate(CPU, dataclasses.replace(MEMORY, free_bytes=5_000_000_000)))
        assert isinstance(prospect.problem, DoesNotFitError)
        assert prospect.problem.message == "needs 6.81 GB at 4096 tokens, 5.00 GB are free"
        found = re.fullmatch(
            r"--context (\d+) or --quality small --context (\d+) fits", prospect.problem.hint
        )
        assert found is not None
        assert int(found[1]) == prospect.largest_context < int(found[2]) < 4096
        assert 256 <= prospect.largest_context < 4096

    def test_a_smaller_quality_that_fits_is_named(self) -> None:
        (prospect,) = ranked(Candidate(CPU, dataclasses.replace(MEMORY, free_bytes=6_600_000_000)))
        assert prospect.problem is not None
        assert prospect.problem.hint == f"--context {prospect.largest_context} or --quality small fits"

    def test_what_never_fits(self) -> None:
        (prospect,) = ranked(Candidate(CPU, dataclasses.replace(MEMORY, free_bytes=1_000_000_000)))
        assert prospect.largest_context == 0
        assert prospect.problem is not None
        assert "smaller model" in prospect.problem.hint

    def test_an_unknown_bandwidth(self) -> None:
        (prospect,) = ranked(Candidate(CPU, dataclasses.replace(MEMORY, bytes_per_second=None)))
        assert prospect.decode_limit is None
        assert prospect.problem is None

    def test_what_cannot_run_here_is_planned_all_the_same(self) -> None:
        (prospect,) = ranked(Candidate(CPU, MEMORY, MISSING))
        assert prospect.plan is not None
        assert prospect.problem is MISSING

    def test_a_context_that_the_model_does_not_have(self) -> None:
        (prospect,) = ranked(Candidate(CPU, MEMORY), context=200_000)
        assert prospect.plan is None
        assert prospect.problem is not None
        assert "131072" in prospect.problem.message


class TestOrder:
    def test_the_faster_memory_wins(self) -> None:
        gpu = ProviderMemory("GPU", 20_000_000_000, 900e9)
        slow, fast = Candidate(named("slow"), MEMORY), Candidate(named("fast"), gpu)
        assert names(ranked(slow, fast)) == names(ranked(fast, slow)) == ["fast", "slow"]

    def test_what_cannot_be_chosen_comes_last(self) -> None:
        gpu = ProviderMemory("GPU", 20_000_000_000, 900e9)
        prospects = ranked(Candidate(named("fast"), gpu, MISSING), Candidate(named("slow"), MEMORY))
        assert names(prospects) == ["slow", "fast"]

    def test_a_target_for_this_very_device_wins_a_tie(self) -> None:
        assert names(ranked(Candidate(CPU, MEMORY), Candidate(BOARD, MEMORY)))[0] == BOARD.name

    @pytest.mark.parametrize(
        ("features", "fastest"),
        [(("avx2", "avx512", "avx512_vnni", "amx_int8"), "openvino"), (("avx2",), "gguf")],
    )
    def test_the_processor_decides_between_engines(self, features: tuple[str, ...], fastest: str) -> None:
        targets = map(read_target, ("cpu", "gguf", "openvino"))
        prospects = ranked(*(Candidate(target, MEMORY, features=features) for target in targets))
        assert names(prospects)[0] == fastest

    def test_an_engine_that_nobody_has_measured_does_not_win_by_that(self) -> None:
        """With the same artifact it counts as the slowest of those that were measured."""
        unmeasured = dataclasses.replace(named("unmeasured"), provider="abacus")
        prospects = ranked(Candidate(unmeasured, MEMORY), Candidate(CPU, MEMORY))
        by_name = {prospect.candidate.target.name: prospect for prospect in prospects}
        assert by_name["unmeasured"].decode_share is None
        assert by_name["unmeasured"].expected_decode <= by_name["cpu"].expected_decode


class TestReason:
    def test_the_only_one(self) -> None:
        assert reason(ranked(Candidate(CPU, MEMORY))) == (
            "cpu is the only target that can run here and fits: it needs 6.81 GB at 4096 tokens, "
            "20.0 GB are free."
        )

    def test_the_fastest(self) -> None:
        twice = dataclasses.replace(MEMORY, bytes_per_second=50e9)
        text = reason(ranked(Candidate(CPU, MEMORY), Candidate(named("fast"), twice)))
        assert text.startswith("fast should be the fastest of 2, 2.0 times as fast as cpu, and fits:")

    def test_as_fast_as_another(self) -> None:
        assert "as fast as" in reason(ranked(Candidate(CPU, MEMORY), Candidate(named("other"), MEMORY)))

    def test_nothing_fits(self) -> None:
        little = dataclasses.replace(MEMORY, free_bytes=4_000_000_000)
        prospects = ranked(Candidate(CPU, little), Candidate(named("other"), MEMORY, MISSING))
        with pytest.raises(DoesNotFitError) as caught:
            check_choice("phi", prospects)
        assert caught.value.exit_code == 3
        assert "cpu: needs 6.81 GB" in caught.value.message
        assert "other: the engine is not installed" in caught.value.message
        assert caught.value.hint.startswith("--context ")
        with pytest.raises(DoesNotFitError) as caught:
            check_choice("phi", ranked(Candidate(CPU, MEMORY, MISSING)))
        assert "edgephi doctor" in caught.value.hint
