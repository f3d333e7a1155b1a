"""The plan: sizes known before a byte is read, and a refusal that says what would fit."""

import dataclasses
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgephi.build.plan import Plan, make_plan
from edgephi.build.shapes import architecture_of
from edgephi.build.tensor_plans import plan_tensors
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import EMBEDDING, HEAD, Role
from edgephi.declared.quality import Quality, at_quality
from edgephi.declared.recipe import Keep, Recipe, read_recipe, recipes
from edgephi.declared.target import Target, read_target
from edgephi.errors import DoesNotFitError, NotSupportedError
from tests.portable import portable
from tests.property_profile import examples

CPU = read_target("cpu")
PUBLISHED = [recipe for recipe in recipes() if recipe.model.shape is not None]
published = pytest.mark.parametrize("recipe", PUBLISHED, ids=lambda recipe: recipe.name)


def architecture(recipe: Recipe, **changes: Any) -> Architecture:
    assert recipe.model.shape is not None
    return architecture_of(dataclasses.replace(recipe.model.shape, **changes))


def device(memory: int | None, *, bandwidth: int | None = None, context: int = 4096) -> Target:
    limits = dataclasses.replace(
        CPU.limits, context=context, memory_bytes=memory, memory_bytes_per_second=bandwidth
    )
    return dataclasses.replace(CPU, name="box", limits=limits)


def planned(recipe: Recipe, target: Target = CPU, *, context: int | None = None) -> Plan:
    return make_plan(recipe.name, architecture(recipe), recipe, target, context=context)


def options(hint: str) -> list[tuple[Quality, int | None]]:
    """The qualities and contexts that a hint says to fit, None for the context that was asked for."""
    if not hint.endswith(" fits"):
        return []
    found: list[tuple[Quality, int | None]] = []
    for option in hint.removesuffix(" fits").split(" or "):
        words = re.fullmatch(r"(--quality small ?)?(--context (\d+))?", option)
        assert words is not None, hint
        found.append(("small" if words[1] else "default", int(words[3]) if words[3] else None))
    return found


class TestSizes:
    @published
    def test_five_bits_and_a_little(self, recipe: Recipe) -> None:
        plan = planned(recipe)
        parameters = architecture(recipe).parameters
        assert plan.bits_per_weight == pytest.approx(8 * plan.artifact_bytes / parameters, abs=1e-3)
        # 32 weights have a float32 scale and a zero point, which are 1.125 bits for each; a vocabulary has 9.
        assert 5.125 < plan.bits_per_weight < 5.8

    def test_phi_3_mini_stays_below_2_6_gb_and_2_1_in_large_groups(self) -> None:
        own = read_recipe("phi-3-mini-4k")
        default = dataclasses.replace(read_recipe("default"), model=own.model)
        assert planned(default).artifact_bytes == planned(own).artifact_bytes < 2.6e9
        assert planned(dataclasses.replace(own, quant=portable(group_size=128))).artifact_bytes < 2.1e9

    def test_memory_is_weights_cache_and_scratch(self) -> None:
        memory = planned(read_recipe("phi-3-mini-4k")).memory
        assert memory.kv_cache == 4096 * 2 * 32 * 3072 * 4  # keys and values of all layers in float32
        assert memory.total == memory.weights + memory.kv_cache + memory.scratch

    def test_grouped_queries_keep_a_smaller_cache(self) -> None:
        medium, mini = (planned(read_recipe(name)).memory for name in ("phi-3-medium-4k", "phi-3-mini-4k"))
        assert medium.kv_cache < mini.kv_cache

    def test_llama_cpp_forgets_what_has_left_the_attention_window(self) -> None:
        recipe, gguf = read_recipe("phi-3-mini-4k"), read_target("gguf")
        within, past = (planned(recipe, gguf, context=each).memory for each in (2048, 4096))
        assert within.cached_tokens == 2048
        assert past.cached_tokens == 2047 + 256
        assert past.kv_cache == 2304 * past.per_token
        assert past.total - within.total == 256 * past.per_token

    def test_llama_cpp_holds_a_tied_head_beside_the_embedding(self) -> None:
        recipe, gguf = read_recipe("phi-4-mini"), read_target("gguf")
        plan = planned(recipe, gguf)
        head = 200_064 * 3072 // 256 * 210  # Q6_K: a block of 256 weights has 210 bytes
        assert plan.memory.weights == plan.artifact_bytes + head

    def test_a_short_context_is_not_below_the_packing_of_the_largest_matrix(self) -> None:
        memory = planned(read_recipe("phi-4-mini"), context=256).memory
        assert memory.kv_cache + memory.scratch > 200_064 * 3072 // 2

    def test_smaller_groups_and_asymmetry_take_more(self) -> None:
        recipe = read_recipe("phi-3-mini-4k")
        quants = [
            portable(group_size=128),
            portable(group_size=128, symmetric=False),
            portable(group_size=64),
            portable(group_size=32),
            portable(group_size=32, head_bits=8),
            portable(group_size=32, symmetric=False),
            portable(bits=8, group_size=128),
        ]
        sizes = [planned(dataclasses.replace(recipe, quant=quant)).artifact_bytes for quant in quants]
        assert sizes == sorted(sizes)
        assert len(set(sizes)) == len(sizes)

    def test_longrope_tables_are_counted_twice_past_the_original_context(self) -> None:
        recipe = read_recipe("phi-3.5-mini")
        short, long = (planned(recipe, context=context).artifact_bytes for context in (4096, 8192))
        # cosines and sines of 48 frequencies: one table of 4,096 positions, then two of 8,192
        table = 48 * 4 * 2
        assert long - short == (2 * 8192 - 4096) * table
        plain = read_recipe("phi-4")
        short, long = (planned(plain, context=context).artifact_bytes for context in (4096, 8192))
        assert long - short == 4096 * 64 * 4 * 2

    def test_decode_speed_is_bounded_by_reading_the_weights(self) -> None:
        recipe = read_recipe("phi-3-mini-4k")
        plan = planned(recipe, device(None, bandwidth=17_000_000_000))
        assert plan.decode_tokens_per_second == pytest.approx(17e9 / plan.artifact_bytes)
        assert planned(recipe).decode_tokens_per_second is None


class TestContext:
    @published
    def test_the_targets_context_unless_the_model_has_less(self, recipe: Recipe) -> None:
        assert planned(recipe).context == 4096
        model = architecture(recipe)
        assert planned(recipe, device(None, context=1 << 20)).context == model.context

    def test_what_was_asked_for_wins(self) -> None:
        recipe = read_recipe("phi-3.5-mini")
        for context in (1, 512, 5000, 131072):
            assert planned(recipe, context=context).context == context

    @published
    def test_more_than_the_model_was_made_for_is_refused(self, recipe: Recipe) -> None:
        limit = architecture(recipe).context
        assert planned(recipe, context=limit).context == limit
        with pytest.raises(DoesNotFitError) as caught:
            planned(recipe, context=limit + 1)
        assert caught.value.exit_code == 3
        assert str(limit) in caught.value.message
        assert str(limit) in caught.value.hint


class TestMemory:
    def test_nothing_is_said_about_a_device_whose_memory_is_not_known(self) -> None:
        assert planned(read_recipe("phi-4")).largest_context is None

    def test_refused_before_anything_is_downloaded(self) -> None:
        with pytest.raises(DoesNotFitError) as caught:
            planned(read_recipe("phi-4"), read_target("raspberry-pi-5-8gb"))
        assert caught.value.exit_code == 3
        assert "7.0 GB" in caught.value.message
        assert "smaller model" in caught.value.hint

    def test_phi_3_mini_fits_a_raspberry_pi(self) -> None:
        plan = planned(read_recipe("phi-3-mini-4k"), read_target("raspberry-pi-5-8gb"))
        assert plan.largest_context == 4096
        assert plan.memory.total < 7e9
        assert plan.decode_tokens_per_second is not None
        assert 6 < plan.decode_tokens_per_second < 7

    @settings(max_examples=examples(40))
    @given(
        st.sampled_from(PUBLISHED),
        st.integers(500_000_000, 60_000_000_000),
        st.sampled_from([256, 4096, 16384, 131072]),
    )
    def test_the_context_that_a_refusal_names_fits(self, recipe: Recipe, memory: int, context: int) -> None:
        target = device(memory, context=context)
        try:
            plan = planned(recipe, target)
        except DoesNotFitError as error:
            fitting = options(error.hint)
            for quality, tokens in fitting:
                plan = planned(at_quality(recipe, quality), target, context=tokens)
                assert plan.memory.total <= memory
            at_small = at_quality(recipe, "small")
            if "small" not in (quality for quality, _ in fitting):
                with pytest.raises(DoesNotFitError):
                    planned(at_small, target)
            smaller = [tokens for quality, tokens in fitting if quality == "default"]
            if not smaller:
                assert fitting or "smaller model" in error.hint
                with pytest.raises(DoesNotFitError):
                    planned(recipe, target, context=256)
                return
            plan = planned(recipe, target, context=smaller[0])
            # ... and is not far from the most that would: the next step of 256 tokens does not.
            if plan.context < min(context, architecture(recipe).context) - 512:
                with pytest.raises(DoesNotFitError):
                    planned(recipe, target, context=plan.context + 512)
        assert plan.memory.total <= memory
        assert plan.largest_context is not None
        assert plan.context <= plan.largest_context

    def test_a_smaller_quality_is_named_where_it_fits(self) -> None:
        recipe = read_recipe("phi-3-mini-4k")
        default, small = (planned(at_quality(recipe, each)).memory.total for each in ("default", "small"))
        between = device((default + small) // 2)
        with pytest.raises(DoesNotFitError) as caught:
            planned(recipe, between)
        assert re.fullmatch(r"--context \d+ or --quality small fits", caught.value.hint)
        little = device(planned(at_quality(recipe, "small"), context=1024).memory.total)
        with pytest.raises(DoesNotFitError) as caught:
            planned(recipe, little)
        assert options(caught.value.hint)[-1] == ("small", 1024)
        with pytest.raises(DoesNotFitError) as caught:
            planned(at_quality(recipe, "small"), little)
        assert caught.value.hint == "--context 1024 fits"

    def test_one_that_cannot_be_had_is_not(self) -> None:
        """96 columns do not divide into groups of 64."""
        recipe = read_recipe("phi-3-mini-4k")
        odd = architecture(recipe, layers=2, hidden_size=96, heads=1, kv_heads=1)
        with pytest.raises(DoesNotFitError) as caught:
            make_plan("phi", odd, recipe, device(1_000_000))
        assert caught.value.hint == "choose a smaller model or a larger device"


class TestSchemes:
    def test_matrices_are_quantised_and_vectors_are_not(self) -> None:
        model = architecture(read_recipe("phi-3-mini-4k"), layers=2)
        plans = plan_tensors(model, portable(embedding_bits=8))
        assert plans.keys() == model.tensor_shapes().keys()
        for tensor, shape in model.tensor_shapes().items():
            scheme = plans[tensor].scheme
            assert (scheme is None) == (len(shape) == 1)
            if scheme is not None:
                assert scheme.bits == (8 if tensor == EMBEDDING else 4)

    @pytest.mark.parametrize(("embedding", "head"), [(4, 4), (4, 8), (8, 4), (8, 8)])
    def test_a_tied_head_shares_the_larger_bits(self, embedding: Any, head: Any) -> None:
        quant = portable(embedding_bits=embedding, head_bits=head)
        tied = plan_tensors(architecture(read_recipe("phi-4-mini"), layers=1), quant)
        assert tied[EMBEDDING].quantised.bits == max(embedding, head)
        assert HEAD not in tied
        untied = plan_tensors(architecture(read_recipe("phi-4"), layers=1), quant)
        assert [untied[tensor].quantised.bits for tensor in (EMBEDDING, HEAD)] == [embedding, head]

    def test_columns_that_no_group_size_divides(self) -> None:
        model = architecture(read_recipe("phi-3-mini-4k"), layers=1, intermediate_size=1000)
        with pytest.raises(NotSupportedError) as caught:
            plan_tensors(model, portable(group_size=128))
        assert caught.value.exit_code == 3
        assert "down of layer 0" in caught.value.message
        assert "group size 128 does not divide its 1000 columns" in caught.value.message

    @pytest.mark.parametrize(("width", "size"), [(8192 + 64, 64), (8192 + 32, 32), (8192 + 128, 128)])
    def test_a_matrix_gets_the_largest_groups_that_divide_it(self, width: int, size: int) -> None:
        model = architecture(read_recipe("phi-3-mini-4k"), layers=1, intermediate_size=width)
        plans = plan_tensors(model, portable(group_size=128))
        for tensor, plan in plans.items():
            if plan.scheme is not None:
                assert plan.scheme.group_size == (size if tensor.role is Role.DOWN else 128)

    def test_an_engine_that_is_not_there_yet(self) -> None:
        target = dataclasses.replace(CPU, engine="tensorrt")
        with pytest.raises(NotSupportedError, match="engine 'tensorrt'") as caught:
            planned(read_recipe("phi-3-mini-4k"), target)
        assert "edgephi targets" in caught.value.hint


class TestWhatIsKept:
    """Nothing is said to have more bits that has as many without."""

    @pytest.mark.parametrize("choice", [{"keep": Keep(("*",), auto=0.1)}, {"bits_per_weight": 60.0}])
    def test_8_bits_everywhere_leave_nothing_to_choose(self, choice: dict[str, Any]) -> None:
        own = read_recipe("phi-3-mini-4k")
        eight = dataclasses.replace(own.quant, bits=8)
        plan = planned(dataclasses.replace(own, quant=dataclasses.replace(eight, **choice)))
        assert (plan.kept, plan.undecided) == ((), False)
        assert plan.artifact_bytes == planned(dataclasses.replace(own, quant=eight)).artifact_bytes

    def test_a_head_that_has_8_bits_is_not_among_it(self) -> None:
        own = read_recipe("phi-3-mini-4k")
        keep = Keep(("lm_head", "model.layers.0.mlp.down_proj"))
        plan = planned(dataclasses.replace(own, quant=dataclasses.replace(own.quant, keep=keep)))
        assert plan.kept == ("model.layers.0.mlp.down_proj",)
