"""Beam search, held against transformers' own, which is given the logits of the very same engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationMixin, LlamaConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

import edgephi.runtime
from edgephi.errors import PastContextError, UsageError
from edgephi.runtime.session import Options, Session
from tests.runtime.conftest import TARGETS, DemoFor

PROMPTS = ("turn on the kitchen light", "tell me a story", "1 2 3")


@pytest.fixture(scope="module", params=TARGETS)
def session(request: pytest.FixtureRequest, demo_for: DemoFor) -> Session:
    return edgephi.runtime.load(demo_for(request.param), provider="cpu")


class EnginesModel(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A model of transformers whose logits are those of an engine."""

    config_class = LlamaConfig
    main_input_name = "input_ids"

    def __init__(self, session: Session) -> None:
        super().__init__(LlamaConfig(vocab_size=768))
        self.session = session
        self.anything = torch.nn.Parameter(torch.zeros(1))

    def prepare_inputs_for_generation(self, input_ids: Any, **_: Any) -> dict[str, Any]:
        return {"input_ids": input_ids}

    def forward(self, input_ids: Any, **_: Any) -> CausalLMOutput:
        each = [
            np.concatenate(list(self.session.engine.logits(row, step=len(row)))) for row in input_ids.tolist()
        ]
        return CausalLMOutput(logits=torch.from_numpy(np.stack(each)))


def searched(session: Session, prompt: str, beams: int, **how: Any) -> list[tuple[list[int], float]]:
    """What transformers finds: tokens with their stop token, and scores."""
    ids = session.encode_chat([{"role": "user", "content": prompt}])
    found = EnginesModel(session).generate(
        torch.tensor([ids]),
        num_beams=beams,
        num_return_sequences=beams,
        do_sample=False,
        use_cache=False,
        eos_token_id=list(session.manifest.chat.stop_token_ids),
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        **how,
    )
    return [
        (row[len(ids) :], float(score))
        for row, score in zip(found.sequences.tolist(), found.sequences_scores, strict=True)
    ]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_beams_are_those_of_transformers(session: Session, prompt: str) -> None:
    found = session.beams(prompt, 4, Options(max_tokens=12))
    expected = searched(session, prompt, 4, max_new_tokens=12)
    assert len(found) == len(expected) == 4
    for beam, (tokens, score) in zip(found, expected, strict=True):
        assert list(beam.token_ids) == tokens[: len(beam.token_ids)]
        assert beam.score == pytest.approx(score, abs=0.02)
        stops = session.manifest.chat.stop_token_ids
        ends = tokens[len(beam.token_ids) :][:1]
        assert (beam.stop_reason == "stop") == bool(set(ends) & set(stops))
    assert [beam.score for beam in found] == sorted((beam.score for beam in found), reverse=True)


@pytest.mark.parametrize(
    ("beams", "length_penalty", "penalties"),
    [
        (2, 0.0, {}),
        (3, -1.0, {}),
        (3, 2.0, {}),
        (3, 1.0, {"repetition_penalty": 1.5}),
    ],
)
def test_also_with_penalties(
    demo_for: DemoFor, beams: int, length_penalty: float, penalties: dict[str, float]
) -> None:
    session = edgephi.runtime.load(demo_for("cpu"))
    options = Options(max_tokens=10, **penalties)  # type: ignore[arg-type]
    found = session.beams(PROMPTS[1], beams, options, length_penalty=length_penalty)
    expected = searched(
        session, PROMPTS[1], beams, max_new_tokens=10, length_penalty=length_penalty, **penalties
    )
    assert [list(beam.token_ids) for beam in found] == [
        tokens[: len(beam.token_ids)] for beam, (tokens, _) in zip(found, expected, strict=True)
    ]
    assert [beam.score for beam in found] == pytest.approx([score for _, score in expected], abs=0.02)


def test_one_beam_is_the_greedy_answer(session: Session) -> None:
    (beam,) = session.beams([{"role": "user", "content": PROMPTS[0]}], 1)
    greedy = session.generate(PROMPTS[0])
    assert beam.text == greedy.text
    assert (beam.stop_reason, len(beam.token_ids)) == (greedy.stop_reason, greedy.generated_tokens)


def test_the_best_beam_is_at_least_as_likely_as_the_greedy_answer(session: Session) -> None:
    for prompt in PROMPTS:
        (greedy,) = session.beams(prompt, 1, Options(max_tokens=12), length_penalty=0.0)
        best, *_ = session.beams(prompt, 5, Options(max_tokens=12), length_penalty=0.0)
        assert best.score >= greedy.score - 0.02


def test_caches_are_given_back_and_go_on(session: Session) -> None:
    before = session.generate(PROMPTS[1], Options(max_tokens=12)).text
    open_before = len(session.caches)
    session.beams(PROMPTS[1], 6, Options(max_tokens=12))
    assert len(session.caches) <= max(open_before, 1) + 1
    assert session.generate(PROMPTS[1], Options(max_tokens=12)).text == before


@pytest.mark.parametrize(
    "options", [{"temperature": 1.0}, {"stop": ("x",)}, {"logprobs": 0}, {"regex": "x"}], ids=str
)
def test_what_has_no_place_in_a_search(demo_for: DemoFor, options: dict[str, Any]) -> None:
    session = edgephi.runtime.load(demo_for("cpu"))
    with pytest.raises(UsageError, match="expected beams without"):
        session.beams("hi", 2, Options(**options))


def test_numbers_that_make_no_sense(demo_for: DemoFor) -> None:
    session = edgephi.runtime.load(demo_for("cpu"), context=64)
    for beams in (0, 65):
        with pytest.raises(UsageError, match="beams, found"):
            session.beams("hi", beams)
    with pytest.raises(UsageError, match="length penalty"):
        session.beams("hi", 2, length_penalty=float("nan"))
    with pytest.raises(PastContextError):
        session.beams("light " * 100, 2)


def test_a_full_context_ends_beams(demo_for: DemoFor) -> None:
    session = edgephi.runtime.load(demo_for("cpu"), context=32)
    (token,) = session.engine.encode("7")[-1:]
    best, *_ = session.beams("hi", 2, Options(logit_bias={token: 50.0}))
    assert best.stop_reason == "context"
    assert len(best.token_ids) < 32
