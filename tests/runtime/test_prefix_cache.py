"""Which cache a request gets, and which ones make room; with an engine that computes nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgephi.errors import DoesNotFitError, EdgephiError
from edgephi.runtime.prefix_cache import PrefixCache
from tests.property_profile import examples
from tests.runtime.engines.listed_engine import ListedCache, ListedEngine

CONTEXT = 1000
TOKEN_BYTES = 10
FULL = CONTEXT * TOKEN_BYTES
PLENTY = 1 << 40
RESERVE = 32 << 20


def caches_for(
    engine: ListedEngine, full_caches: float = 10, *, available: Callable[[], int] = lambda: PLENTY
) -> PrefixCache:
    """Caches within a budget for so many of the whole context."""
    budget = int(full_caches * FULL)
    return PrefixCache(
        engine,
        context=CONTEXT,
        budget=budget,
        token_bytes=TOKEN_BYTES,
        available=available,
    )


def ask(
    caches: PrefixCache,
    tokens: Sequence[int],
    answer: Sequence[int] = (),
    *,
    comes_back: bool = True,
    adapter: str = "",
) -> int:
    """Have a prompt computed, and an answer behind it; returns how many tokens of the prompt were there."""
    length = len(tokens) + len(answer)
    with caches.take(tokens, length, comes_back=comes_back, adapter=adapter) as lease:
        assert isinstance(lease.cache, ListedCache)
        assert lease.cache.adapter == adapter
        assert list(lease.cache.tokens) == list(tokens[: lease.reused])
        list(lease.cache.append([*tokens[lease.reused :], *answer]))
    return lease.reused


def text(*parts: tuple[str, int]) -> list[int]:
    """Tokens: of each part a letter so many times."""
    return [ord(letter) for letter, count in parts for _ in range(count)]


@pytest.fixture(params=["ahead", "ahead, copies", "grows", "grows, copies"])
def engine(request: pytest.FixtureRequest) -> ListedEngine:
    return ListedEngine(allocates_ahead="ahead" in request.param, copies_caches="copies" in request.param)


SYSTEM = text(("s", 100))
A, B, C = (SYSTEM + text((letter, 300)) for letter in "abc")


class TestReuse:
    def test_a_conversation_goes_on_where_it_was(self, engine: ListedEngine) -> None:
        caches = caches_for(engine)
        assert ask(caches, A, text(("x", 10))) == 0
        assert ask(caches, A + text(("x", 10), ("y", 5))) == len(A) + 10
        assert len(caches) == 1

    def test_the_last_token_is_computed_for_its_logits(self, engine: ListedEngine) -> None:
        caches = caches_for(engine)
        ask(caches, A)
        assert ask(caches, A) == len(A) - 1
        assert ask(caches, A[:300]) == 299

    def test_a_conversation_keeps_its_tail_when_another_begins_alike(self, engine: ListedEngine) -> None:
        caches = caches_for(engine)
        ask(caches, A)
        assert ask(caches, B) == (len(SYSTEM) if engine.copies_caches else 0)
        assert len(caches) == 2
        assert ask(caches, [*A, 0]) == len(A)
        assert ask(caches, [*B, 0]) == len(B)

    def test_a_short_tail_is_given_up_for_a_long_prefix(self) -> None:
        caches = caches_for(ListedEngine())
        ask(caches, SYSTEM + text(("a", 90)))
        assert ask(caches, SYSTEM + text(("b", 90))) == len(SYSTEM)
        assert len(caches) == 1

    def test_nobody_comes_back_for_the_tail_of_a_single_prompt(self, engine: ListedEngine) -> None:
        caches = caches_for(engine)
        ask(caches, A, comes_back=False)
        assert ask(caches, B, comes_back=False) == len(SYSTEM)
        assert len(caches) == 1

    def test_a_prefix_of_a_few_tokens_is_not_copied(self, engine: ListedEngine) -> None:
        caches = caches_for(engine)
        ask(caches, text(("s", 3), ("a", 100)))
        assert ask(caches, text(("s", 3), ("b", 100))) == 0

    def test_of_several_the_longest_prefix_counts(self, engine: ListedEngine) -> None:
        caches = caches_for(engine)
        ask(caches, SYSTEM + text(("a", 200)))
        ask(caches, text(("t", 200)))
        assert ask(caches, SYSTEM + text(("a", 200), ("z", 4))) == 300
        assert ask(caches, text(("t", 200), ("z", 4))) == 200


class TestOpenedAhead:
    @pytest.mark.parametrize("copies", [False, True])
    def test_the_first_conversation_finds_its_memory_taken(self, copies: bool) -> None:
        engine = ListedEngine(allocates_ahead=True, copies_caches=copies)
        caches = caches_for(engine)
        caches.open_ahead()
        assert [cache.capacity for cache in engine.opened] == [CONTEXT]
        ask(caches, text(("f", 5)), comes_back=False)  # what a server asks itself before it is ready
        assert ask(caches, A) == 0
        assert len(engine.opened) == 1

    def test_a_second_time_takes_no_more(self) -> None:
        engine = ListedEngine(allocates_ahead=True)
        caches = caches_for(engine)
        ask(caches, A)
        caches.open_ahead()
        assert len(engine.opened) == 1

    def test_what_grows_is_not_opened(self) -> None:
        engine = ListedEngine(allocates_ahead=False)
        caches_for(engine).open_ahead()
        assert engine.opened == []

    def test_what_does_not_fit_is_refused_at_once(self) -> None:
        caches = caches_for(ListedEngine(allocates_ahead=True), available=lambda: FULL + RESERVE - 1)
        with pytest.raises(DoesNotFitError, match=r"needs 0\.00 GB of memory"):
            caches.open_ahead()


class TestBudget:
    def test_the_least_recently_used_goes_first(self, engine: ListedEngine) -> None:
        caches = caches_for(engine, 2 if engine.allocates_ahead else 1)
        one, two, three, four = (text((letter, 490)) for letter in "1234")
        ask(caches, one)
        ask(caches, two)
        ask(caches, [*one, 0])
        ask(caches, three)  # takes the place of two
        assert [held[0] for held in caches.held] == [ord("1"), ord("3")]
        ask(caches, [*one, 0, 0])
        ask(caches, four)
        assert [held[0] for held in caches.held] == [ord("1"), ord("4")]
        assert ask(caches, [*one, 0, 0, 0]) == len(one) + 2

    def test_no_more_memory_than_it_says(self, engine: ListedEngine) -> None:
        caches = caches_for(engine, 2.5)
        for seed in range(40):
            numbers = random.Random(seed)
            prompt = SYSTEM[: numbers.randint(0, 100)] + numbers.choices(range(99), k=numbers.randint(1, 800))
            ask(caches, prompt, comes_back=numbers.random() < 0.5)
            still_open = [cache for cache in engine.opened if cache.is_open]
            assert len(still_open) == len(caches)
            if engine.allocates_ahead:
                assert sum(cache.capacity for cache in still_open) <= 2.5 * CONTEXT
            else:
                assert sum(len(held) for held in caches.held) <= 2.5 * CONTEXT

    def test_with_room_for_one_conversation_it_changes_hands(self, engine: ListedEngine) -> None:
        caches = caches_for(engine, 1)
        one, two = text(("1", 600)), text(("2", 600))
        for prompt in (one, two, one, two):
            assert ask(caches, prompt) == 0
        assert len(caches) == 1

    def test_a_single_prompt_that_needs_more_than_the_last_one_had(self, engine: ListedEngine) -> None:
        caches = caches_for(engine)
        for length in (100, 200, 400, 800):
            ask(caches, text(("a", length)), comes_back=False)
        assert len(caches) == 1

    def test_memory_counts_as_taken_until_a_cache_is_closed(self) -> None:
        """A cache that was rewound has not become smaller."""
        caches = caches_for(ListedEngine(allocates_ahead=False), 1)
        ask(caches, text(("a", 900)), comes_back=False)
        ask(caches, text(("a", 100)))
        ask(caches, text(("b", 200)))
        assert len(caches) == 1


class TestReady:
    def test_requests_start_behind_it(self, engine: ListedEngine) -> None:
        caches = caches_for(engine)
        caches.keep_ready(SYSTEM)
        assert ask(caches, SYSTEM + text(("a", 50))) == len(SYSTEM)
        assert ask(caches, SYSTEM + text(("b", 300))) == len(SYSTEM)

    def test_each_cache_pays_once_where_none_can_be_copied(self) -> None:
        caches = caches_for(ListedEngine(), 2)
        caches.keep_ready(SYSTEM)
        assert [ask(caches, SYSTEM + text((letter, 300))) for letter in "abcdef"] == [
            100,
            0,
            100,
            100,
            100,
            100,
        ]

    def test_other_prompts_do_not_push_it_out(self, engine: ListedEngine) -> None:
        caches = caches_for(engine, 2)
        caches.keep_ready(SYSTEM)
        for letter in "qwertz":
            ask(caches, text((letter, 400)))
        assert ask(caches, [*SYSTEM, 1]) == len(SYSTEM)

    def test_where_there_is_room_for_one_it_gives_way(self, engine: ListedEngine) -> None:
        caches = caches_for(engine, 1)
        caches.keep_ready(SYSTEM)
        assert ask(caches, text(("q", 950))) == 0
        assert ask(caches, [*SYSTEM, 1]) == 0


class TestAdapters:
    """What was computed with one is nothing to another, nor to the model without any."""

    def test_one_shares_nothing_with_another(self, engine: ListedEngine) -> None:
        caches = caches_for(engine)
        for adapter in ("", "tea", "coffee"):
            assert ask(caches, A, adapter=adapter) == 0
        for adapter in ("coffee", "", "tea"):
            assert ask(caches, [*A, 0], adapter=adapter) == len(A)
        assert len(caches) == 3

    def test_each_begins_where_its_own_conversations_do(self, engine: ListedEngine) -> None:
        caches = caches_for(engine)
        ask(caches, A, adapter="tea")
        ask(caches, text(("q", 300)))
        shared = len(SYSTEM) if engine.copies_caches else 0
        assert ask(caches, B, adapter="tea") == shared
        assert ask(caches, C, adapter="coffee") == 0
        assert ask(caches, [*C, 0]) == 0

    def test_the_least_recently_used_makes_room_whosever_it_is(self, engine: ListedEngine) -> None:
        caches = caches_for(engine, 1)
        long = text(("1", 600))
        for adapter in ("", "tea", "coffee", "tea"):
            assert ask(caches, long, adapter=adapter) == 0
        assert len(caches) == 1

    def test_each_finds_its_memory_taken(self) -> None:
        engine = ListedEngine(allocates_ahead=True)
        caches = caches_for(engine)
        for adapter in ("", "tea", "tea", ""):
            caches.open_ahead(adapter)
        assert [(cache.adapter, cache.capacity) for cache in engine.opened] == [
            ("", CONTEXT),
            ("tea", CONTEXT),
        ]

    def test_what_is_kept_ready_is_one_adapters(self, engine: ListedEngine) -> None:
        """The same tokens of another one do not stand for it, so the last of its own stays."""
        caches = caches_for(engine, 2)
        caches.keep_ready(SYSTEM, "tea")
        for letter in "qwertz":
            ask(caches, SYSTEM + text((letter, 300)), adapter="")
        assert ask(caches, [*SYSTEM, 1], adapter="tea") == len(SYSTEM)


class TestMemory:
    def test_is_looked_at_before_a_cache_is_opened(self) -> None:
        engine = ListedEngine()
        caches = caches_for(engine, available=lambda: RESERVE + FULL - 1)
        with pytest.raises(DoesNotFitError, match=r"the KV cache for 1000 tokens needs 0\.00 GB of memory"):
            ask(caches, A)
        assert engine.opened == []

    def test_is_looked_at_before_a_cache_grows(self) -> None:
        engine, left = ListedEngine(allocates_ahead=False), [RESERVE + 5000]
        caches = caches_for(engine, available=lambda: left[0])
        ask(caches, A)
        left[0] = RESERVE + 10 * TOKEN_BYTES
        assert ask(caches, A + text(("x", 10))) == len(A)
        left[0] = RESERVE + 10 * TOKEN_BYTES
        with pytest.raises(DoesNotFitError, match="the KV cache for 421 tokens"):
            ask(caches, A + text(("x", 10), ("y", 11)))
        assert ask(caches, A + text(("x", 10), ("y", 10))) == len(A) + 10  # it was left as it was

    def test_idle_caches_give_theirs_back_first(self, engine: ListedEngine) -> None:
        def available() -> int:
            ahead = engine.allocates_ahead
            open_ones = [cache for cache in engine.opened if cache.is_open]
            taken = sum(cache.capacity if ahead else len(cache.tokens) for cache in open_ones)
            return RESERVE + int(1.5 * FULL) - taken * TOKEN_BYTES

        caches = caches_for(engine, available=available)
        for letter in "abcd":
            ask(caches, text((letter, 900)))
        assert [held[0] for held in caches.held] == [ord("d")]

    def test_of_two_unfinished_answers_the_second_is_refused(self, engine: ListedEngine) -> None:
        caches = caches_for(engine, 1)
        with caches.take(A, CONTEXT) as lease:
            with pytest.raises(DoesNotFitError, match="beside those of other unfinished answers"):
                ask(caches, B)
            list(lease.cache.append(A))
        assert ask(caches, [*A, 0]) == len(A)

    def test_with_room_two_can_be_unfinished(self, engine: ListedEngine) -> None:
        caches = caches_for(engine, 2)
        with caches.take(A, 500) as one:
            with caches.take(A, 500) as two:
                assert one.cache is not two.cache
                list(two.cache.append(A))
            list(one.cache.append(A))
        assert len(caches) == 2

    def test_an_old_bundle_that_does_not_tell_gets_one(self) -> None:
        engine = ListedEngine()
        caches = PrefixCache(
            engine,
            context=CONTEXT,
            budget=0,
            token_bytes=0,
            available=lambda: PLENTY,
        )
        for letter in "abc":
            ask(caches, text((letter, 50)))
        assert len(caches) == 1

    def test_what_fails_is_closed(self, engine: ListedEngine) -> None:
        caches = caches_for(engine)
        with pytest.raises(EdgephiError, match="broken"), caches.take(A, 500):
            raise EdgephiError("broken", hint="")
        assert [cache.is_open for cache in engine.opened] == [False]
        assert len(caches) == 0

    def test_all_can_be_closed(self, engine: ListedEngine) -> None:
        caches = caches_for(engine)
        ask(caches, A)
        ask(caches, text(("q", 100)))
        caches.close()
        assert not any(cache.is_open for cache in engine.opened)


REQUESTS = st.lists(
    st.tuples(
        st.lists(st.sampled_from("sab"), max_size=4),
        st.integers(1, 5),
        st.booleans(),
        st.sampled_from(["", "tea"]),
    ),
    max_size=12,
)


@settings(max_examples=examples(200))
@given(
    requests=REQUESTS,
    ahead=st.booleans(),
    copies=st.booleans(),
    full_caches=st.sampled_from([1, 1.5, 2, 3]),
    ready=st.booleans(),
)
def test_whatever_is_asked_a_cache_holds_what_it_says(
    requests: list[tuple[list[str], int, bool, str]],
    ahead: bool,
    copies: bool,
    full_caches: float,
    ready: bool,
) -> None:
    """`ask` checks it; and nobody is ever refused who is alone."""
    engine = ListedEngine(allocates_ahead=ahead, copies_caches=copies)
    caches = caches_for(engine, full_caches)
    if ready:
        caches.keep_ready(SYSTEM)
    for letters, size, comes_back, adapter in requests:
        prompt = text(*((letter, 40 * size) for letter in letters), ("z", 1))
        ask(caches, prompt, comes_back=comes_back, adapter=adapter)
        assert caches.held[-1] == prompt
        assert sum(cache.is_open for cache in engine.opened) == len(caches)
