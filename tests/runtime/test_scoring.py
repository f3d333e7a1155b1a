"""Scoring a text that is given."""

import threading

import pytest

import edgephi.runtime
from edgephi.errors import BadInputError, DoesNotFitError, EdgephiError, PastContextError
from edgephi.runtime import scoring
from edgephi.runtime.session import Options, Session
from tests.runtime.conftest import DemoFor

TEXT = "turn on the kitchen light, then turn on the bath light"


@pytest.fixture(scope="module")
def session(demo_for: DemoFor) -> Session:
    return edgephi.runtime.load(demo_for("cpu"), context=256)


def test_a_text_and_its_tokens_have_the_same_scores(session: Session) -> None:
    scores = list(session.score(TEXT))
    assert list(session.score([score.token for score in scores])) == scores
    assert "".join(score.text for score in scores) == TEXT


def test_they_do_not_depend_on_the_pieces(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(session.score(TEXT, alternatives=2))
    for name in ("_FEWEST", "_MOST"):
        monkeypatch.setattr(scoring, name, 3)
    told: list[tuple[int, int]] = []
    pieces = list(session.score(TEXT, alternatives=2, on_progress=lambda *numbers: told.append(numbers)))
    assert told[0] == (3, len(whole)) and told[-1] == (len(whole), len(whole))
    assert [score.token for score in pieces] == [score.token for score in whole]
    for one, other in zip(pieces[1:], whole[1:], strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)


def test_what_is_written_has_the_scores_of_what_is_given(session: Session) -> None:
    """The same numbers come out of an answer's steps and out of one pass over its text."""
    prompt = session.raw.encode(TEXT)
    answer = session.complete(prompt, Options(max_tokens=12, logprobs=0))
    list(answer)
    written = answer.generation.scores or ()
    both = session.raw.encode(TEXT + answer.generation.text)
    # The texts do not meet in one token: those that were written are those that are scored.
    assert both[: len(prompt)] == prompt and len(both) == len(prompt) + len(written)
    given = list(session.score(both))[len(prompt) :]
    assert [score.logprob for score in given] == pytest.approx([each.logprob for each in written], abs=1e-3)


def test_it_leaves_the_caches_as_they_were(session: Session) -> None:
    session.generate("turn on the light")
    held = session.caches.held
    list(session.score(TEXT))
    assert session.caches.held == held


def test_the_logits_behind_the_text_are_there_at_the_end(session: Session) -> None:
    found = session.score(TEXT)
    with pytest.raises(EdgephiError, match="not scored yet"):
        _ = found.logits
    list(found)
    answer = session.complete(TEXT, Options(max_tokens=1, logprobs=0))
    list(answer.pieces())
    (first,) = answer.generation.scores or ()
    assert session.raw.spell([int(found.logits.argmax())])[0].strip() == bytes(first.bytes).strip()


def test_another_thread_can_stop_it(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FEWEST", "_MOST"):
        monkeypatch.setattr(scoring, name, 2)
    found = session.score(TEXT, on_progress=lambda *_: close())

    def close() -> None:
        thread = threading.Thread(target=found.close)
        thread.start()
        thread.join()

    assert len(list(found)) == 2
    assert list(found) == []


def test_a_text_may_fill_the_context_and_not_more(session: Session) -> None:
    (token,) = set(session.raw.encode(" light" * 2)[-1:])
    assert len(list(session.score([token] * session.context))) == session.context
    with pytest.raises(PastContextError, match="257 tokens, the context is 256"):
        session.score([token] * (session.context + 1))


def test_what_cannot_be_scored_is_refused(session: Session) -> None:
    with pytest.raises(BadInputError):
        session.score("")
    with pytest.raises(BadInputError):
        session.score(TEXT, adapter="nobody")


def test_idle_caches_make_room(demo_for: DemoFor, monkeypatch: pytest.MonkeyPatch) -> None:
    session = edgephi.runtime.load(demo_for("cpu"), context=256)
    session.generate("turn on the light")
    monkeypatch.setattr(session.caches, "_available", lambda: (1 << 40) if len(session.caches) == 0 else 0)
    assert list(session.score(TEXT))
    monkeypatch.setattr(session.caches, "_available", lambda: 0)
    with pytest.raises(DoesNotFitError, match="tokens and their logits need"):
        session.score(TEXT)
