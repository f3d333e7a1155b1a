"""Biases and penalties, held against transformers' logits processors and OpenAI's formula."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

import edgephi.runtime
from edgephi.errors import BadInputError, UsageError
from edgephi.runtime.session import Options, Session
from edgephi.runtime.text.logits_processors import processors_of
from tests.property_profile import examples
from tests.runtime.conftest import TARGETS, DemoFor

Logits = NDArray[np.float32]
SIZE = 50
TOKENS = st.integers(0, SIZE - 1)
PROMPT = "turn on the kitchen light"


@pytest.fixture(scope="module", params=TARGETS)
def session(request: pytest.FixtureRequest, demo_for: DemoFor) -> Session:
    return edgephi.runtime.load(demo_for(request.param), provider="cpu")


def expected(options: Options, prompt: list[int], answer: list[int], logits: Logits) -> Logits:
    """What transformers makes of logits; for frequency and presence the formula of OpenAI's guide."""
    scores, ids = torch.from_numpy(logits.copy())[None], torch.tensor([prompt + answer])
    if options.logit_bias:
        biases: dict[tuple[int, ...], float] = {(token,): bias for token, bias in options.logit_bias.items()}
        scores = SequenceBiasLogitsProcessor(biases)(ids, scores)
    if options.repetition_penalty != 1:
        scores = RepetitionPenaltyLogitsProcessor(options.repetition_penalty)(ids, scores)
    found: Logits = scores[0].numpy()
    for token, count in Counter(answer).items():
        found[token] -= count * options.frequency_penalty + (count > 0) * options.presence_penalty
    return found


@given(
    prompt=st.lists(TOKENS, min_size=1, max_size=20),
    answer=st.lists(TOKENS, max_size=20),
    seed=st.integers(0, 100),
    bias=st.dictionaries(TOKENS, st.floats(-100, 100, width=32), max_size=4),
    repetition=st.sampled_from([1.0, 1.3, 0.7, 2.0]),
    frequency=st.sampled_from([0.0, 0.5, -2.0]),
    presence=st.sampled_from([0.0, 1.5, -0.25]),
)
@settings(max_examples=examples(100))
def test_the_logits_are_those_of_transformers(
    prompt: list[int],
    answer: list[int],
    seed: int,
    bias: dict[int, float],
    repetition: float,
    frequency: float,
    presence: float,
) -> None:
    options = Options(
        logit_bias=bias,
        repetition_penalty=repetition,
        frequency_penalty=frequency,
        presence_penalty=presence,
    )
    processors, random = processors_of(options, prompt), np.random.default_rng(seed)
    for size in range(len(answer) + 1):  # as it grows
        logits = random.normal(scale=4, size=SIZE).astype(np.float32)
        before = logits.copy()
        processed = logits if processors is None else processors.process(logits, answer[:size])
        wanted = expected(options, prompt, answer[:size], logits)
        np.testing.assert_allclose(processed, wanted, rtol=1e-5, atol=1e-5)
        assert (logits == before).all(), "the engine's own array is left alone"


def test_every_engines_logits_are_changed_alike(session: Session) -> None:
    seen: list[tuple[list[int], Logits]] = []

    def keep(ids: Any, logits: Logits) -> Logits:
        seen.append((list(ids), logits.copy()))
        return logits

    penalties: dict[str, Any] = {
        "logit_bias": {300: 3.0, 5: -100.0},
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.25,
    }
    session.generate(PROMPT, Options(max_tokens=8, logits_processor=keep, **penalties))
    prompt, ids = seen[0][0], seen[-1][0]
    raw = np.concatenate(list(session.engine.logits(ids, step=len(ids))))
    for tokens, logits in seen:
        wanted = expected(Options(**penalties), prompt, tokens[len(prompt) :], raw[len(tokens) - 1])
        # Engines round a whole prompt and single tokens differently, by less than any of the penalties.
        np.testing.assert_allclose(logits, wanted, atol=0.1)
    # Each token is the most likely one of the changed logits before it.
    assert ids[len(prompt) :] == [int(logits.argmax()) for _, logits in seen[:-1]]


class TestSessions:
    def test_a_bias_forbids_a_token_and_another_one_forces_it(self, session: Session) -> None:
        (token,) = session.engine.encode("7")[-1:]
        forced = session.generate(PROMPT, Options(max_tokens=4, logit_bias={token: 100.0}))
        assert forced.text == "7777"
        forbidden = session.generate(PROMPT, Options(logit_bias={token: -100.0}, regex="[78]"))
        assert forbidden.text == "8"

    def test_a_program_scores_tokens_itself(self, session: Session) -> None:
        digits = [session.engine.encode(digit)[-1] for digit in "789"]

        def spell(ids: Any, logits: Logits) -> Logits:
            scores = np.full(len(logits), -np.inf)
            scores[digits[len(ids) % 3]] = 1
            return scores  # of float64, which is taken too

        text = session.generate(PROMPT, Options(max_tokens=6, logits_processor=spell)).text
        assert text in "789789789"
        assert len(text) == 6

    def test_log_probabilities_stay_the_models_own(self, session: Session) -> None:
        def first(**how: Any) -> Any:
            (score, *_) = session.generate(PROMPT, Options(max_tokens=1, logprobs=3, **how)).scores or ()
            return score

        free = first()
        held = first(repetition_penalty=5.0, logit_bias={400: -50.0}, temperature=0.5, seed=1, min_p=0.9)
        alternatives = [each.logprob for each in free.alternatives]
        assert [each.logprob for each in held.alternatives] == pytest.approx(alternatives, abs=1e-3)

    def test_a_repeated_token_wears_off(self, session: Session) -> None:
        (token,) = session.engine.encode("7")[-1:]
        bias = {token: 20.0}
        plain = session.generate(PROMPT, Options(max_tokens=30, logit_bias=bias)).text
        worn = session.generate(PROMPT, Options(max_tokens=30, logit_bias=bias, frequency_penalty=2.0)).text
        assert worn.count("7") < plain.count("7")

    def test_a_token_that_is_none_is_refused_before_anything_is_computed(self, session: Session) -> None:
        with pytest.raises(BadInputError, match="found 100000"):
            session.stream(PROMPT, Options(logit_bias={100000: 1.0}))

    @pytest.mark.parametrize(
        ("found", "message"),
        [
            (None, "logits from logits_processor"),
            (np.zeros(3), r"found the shape \(3,\)"),
            ("logits", "expected logits from logits_processor, found str"),
            (np.full(768, np.nan), "found nan as their largest"),
            (np.full(768, -np.inf), "found -inf as their largest"),
        ],
        ids=["nothing", "too few", "a text", "not a number", "no token"],
    )
    def test_what_are_no_logits(self, session: Session, found: Any, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            session.generate(PROMPT, Options(logits_processor=lambda _ids, _logits: found))
        assert session.generate(PROMPT).stop_reason == "stop", "the session goes on"


@pytest.mark.parametrize(
    "options",
    [
        {"min_p": 1.5},
        {"min_p": -0.1},
        {"repetition_penalty": 0},
        {"repetition_penalty": 5e-324},
        {"frequency_penalty": 2.1},
        {"presence_penalty": float("nan")},
        {"logit_bias": {3: 101}},
        {"logit_bias": {-1: 1}},
    ],
    ids=str,
)
def test_numbers_that_make_no_sense(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(UsageError, match=name):
        Options(**options)


def test_nothing_is_done_where_all_is_off() -> None:
    assert processors_of(Options(), [1]) is None
    assert processors_of(Options(temperature=1.0, top_k=3, min_p=0.5), [1]) is None
