"""Log probabilities of an answer's tokens, against those of the engine's own logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import edgephi.runtime
from edgephi.runtime.session import Options, Session, TokenScore
from edgephi.runtime.text.tokenizer_file import token_bytes
from tests.runtime.conftest import TARGETS, DemoFor

PROMPT = "turn on the kitchen light"
MESSAGES = [{"role": "user", "content": PROMPT}]


@pytest.fixture(scope="module", params=TARGETS)
def session(request: pytest.FixtureRequest, demo_for: DemoFor) -> Session:
    return edgephi.runtime.load(demo_for(request.param), provider="cpu")


def together(scores: tuple[TokenScore, ...] | None) -> str:
    assert scores is not None
    return bytes(byte for score in scores for byte in score.bytes).decode()


def test_they_are_a_log_softmax_of_the_engines_logits(session: Session, demo_for: DemoFor) -> None:
    generation = session.generate(PROMPT, Options(logprobs=3))
    assert generation.scores is not None
    spelled = token_bytes(demo_for("cpu") / "model/tokenizer.json")
    prompt = session.encode_chat(MESSAGES)
    cache = session.engine.open_cache(200)
    list(cache.append(prompt))
    for score in generation.scores:
        expected = torch.from_numpy(cache.logits().astype(np.float64)).log_softmax(-1).numpy()
        likely = np.argsort(-expected, kind="stable")[:3]
        assert score.logprob == pytest.approx(expected.max(), abs=1e-4)  # greedy took the most likely one
        assert [each.logprob for each in score.alternatives] == pytest.approx(
            expected[likely].tolist(), abs=1e-3
        )
        assert [bytes(each.bytes).strip() for each in score.alternatives] == [
            spelled[int(id_)].strip() for id_ in likely
        ]
        list(cache.append([int(likely[0])]))
    cache.close()


def test_together_their_bytes_are_the_text(session: Session) -> None:
    for prompt in (PROMPT, "who are you?", "öffne die Tür — 你好"):
        for options in (
            Options(logprobs=0),
            Options(logprobs=2, temperature=1.5, top_k=3, seed=3, max_tokens=80),
        ):
            generation = session.generate(prompt, options)
            found = together(generation.scores) if generation.text else ""
            # An answer that is cut off may end inside of a letter.
            assert found.startswith(generation.text) if options.temperature else found == generation.text


def test_pieces_have_the_scores_of_their_tokens(session: Session) -> None:
    answer = session.answer(MESSAGES, Options(logprobs=1))
    pieces = list(answer.pieces())
    assert all("".join(score.text for score in piece.scores) == piece.text for piece in pieces)
    assert sum((piece.scores for piece in pieces), ()) == answer.generation.scores


def test_none_unless_asked_for(session: Session) -> None:
    answer = session.answer(MESSAGES)
    assert not any(piece.scores for piece in answer.pieces())
    assert answer.generation.scores is None


def test_neither_temperature_nor_a_schema_changes_them(session: Session) -> None:
    def first(**options: Any) -> TokenScore:
        generation = session.generate("who are you?", Options(logprobs=5, max_tokens=1, **options))
        assert generation.scores is not None
        return generation.scores[0]

    free, others = first(), [first(temperature=50.0, seed=1), first(json_schema='{"const": {}}')]
    for other in others:
        assert other.logprob < free.logprob  # another token was taken
        # The same five; a space at the start is left out where it opens the token that came.
        for one, same in zip(other.alternatives, free.alternatives, strict=True):
            assert one.text.strip() == same.text.strip()
            assert one.logprob == pytest.approx(same.logprob, abs=1e-4)


def test_stop_texts_take_their_tokens_with_them(session: Session) -> None:
    whole = session.generate(PROMPT, Options(logprobs=0))
    stop = whole.text[10:14]
    cut = session.generate(PROMPT, Options(logprobs=0, stop=(stop,)))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.scores is not None and whole.scores is not None
    assert together(cut.scores).startswith(cut.text)
    assert len(together(cut.scores[:-1])) < len(cut.text)  # not one more than the text needs


def test_what_is_held_back_keeps_its_scores(session: Session) -> None:
    whole = session.generate(PROMPT, Options(logprobs=0))
    held = session.generate(PROMPT, Options(logprobs=0, stop=(whole.text[-3:] + "never",)))
    assert held.text == whole.text
    assert held.scores == whole.scores
