"""Answers with what was computed before are those without: token for token, on every engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import edgephi.runtime
from edgephi.errors import DoesNotFitError
from edgephi.runtime.session import Generation, Options, Session
from tests.runtime.conftest import TARGETS, DemoFor

SYSTEM = "You control a home. Answer in JSON. " * 6
ASKED = {
    "kitchen": ["turn on the kitchen light", "now turn it off", "set a timer for ten minutes"],
    "bath": ["turn on the bath fan", "set the bath heating to 21 degrees", "turn it off"],
    "hall": ["dim the hall light to twenty percent", "turn on the hall light", "lock the front door"],
}
GREEDY = Options(max_tokens=24)
CONTEXT = 640


@pytest.fixture(scope="module", params=TARGETS)
def sessions(request: pytest.FixtureRequest, demo_for: DemoFor) -> Iterator[tuple[Session, Session]]:
    """Two sessions on one bundle: one that keeps, and one that is made to forget before each answer."""
    bundle = demo_for(request.param)
    provider = "cpu" if request.param == "mlx" else None
    kept, forgetful = (edgephi.runtime.load(bundle, context=CONTEXT, provider=provider) for _ in range(2))
    yield kept, forgetful
    kept.caches.close()
    forgetful.caches.close()


def finished(session: Session, messages: list[dict[str, str]]) -> Generation:
    answer = session.answer(messages, GREEDY)
    for _ in answer:
        pass
    return answer.generation


def conversation(name: str, turn: int, answers: dict[str, list[str]]) -> list[dict[str, str]]:
    """What a client of the server sends at a turn: the system message, and all that was said so far."""
    messages = [{"role": "system", "content": SYSTEM}]
    for question, said in zip(ASKED[name][:turn], answers[name], strict=True):
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": said}]
    return [*messages, {"role": "user", "content": ASKED[name][turn]}]


def test_conversations_in_turn_get_the_answers_of_a_fresh_prefill(
    sessions: tuple[Session, Session],
) -> None:
    kept, forgetful = sessions
    kept.keep_ready(SYSTEM)
    answers: dict[str, list[str]] = {name: [] for name in ASKED}
    for turn in range(3):
        for name in ASKED:
            messages = conversation(name, turn, answers)
            forgetful.caches.close()
            fresh, reused = finished(forgetful, messages), finished(kept, messages)
            assert reused.text == fresh.text
            assert reused.generated_tokens == fresh.generated_tokens
            assert fresh.reused_tokens == 0
            answers[name].append(reused.text)
            if turn:  # its own history is still there, with room for eight conversations
                assert reused.reused_tokens > len(kept.engine.encode(SYSTEM))


def test_a_conversation_computes_the_new_tokens_only(sessions: tuple[Session, Session]) -> None:
    kept, forgetful = sessions
    chat, history = kept.chat(SYSTEM), forgetful.chat(SYSTEM)
    used = 0
    # Three turns are what the demo was trained to follow: further on it hesitates between two tokens, and
    # rounding decides, which depends on how many tokens an engine computes at once.
    for question in ASKED["kitchen"]:
        forgetful.caches.close()
        answer, fresh = chat.say(question, GREEDY), history.say(question, GREEDY)
        assert "".join(answer) == "".join(fresh)
        assert fresh.generation.reused_tokens == 0
        if used:
            # All of it but the stop token, which was drawn and not computed.
            assert answer.generation.reused_tokens >= used - 1
        used = chat.context_used


def test_an_answer_that_was_closed_leaves_a_cache_that_can_be_used(sessions: tuple[Session, Session]) -> None:
    kept, forgetful = sessions
    messages = [{"role": "user", "content": "turn on the bedroom light and close the blinds"}]
    answer = kept.answer(messages, GREEDY)
    next(answer)
    answer.close()
    forgetful.caches.close()
    again = finished(kept, messages)
    assert again.text == finished(forgetful, messages).text
    assert again.reused_tokens > 0


def test_a_budget_below_one_context_is_refused(demo_for: DemoFor) -> None:
    with pytest.raises(DoesNotFitError, match="cache_bytes of at least"):
        edgephi.runtime.load(demo_for("cpu"), context=CONTEXT, cache_bytes=1000)


def test_a_small_budget_keeps_the_conversation_used_last(demo_for: DemoFor) -> None:
    one = edgephi.runtime.load(demo_for("cpu"), context=CONTEXT)
    per_token = one.manifest.requires.memory_per_token_bytes
    session = edgephi.runtime.load(demo_for("cpu"), context=CONTEXT, cache_bytes=2 * CONTEXT * per_token)
    for name in ASKED:
        finished(session, [{"role": "user", "content": f"{ASKED[name][0]} " * 8}])
    assert len(session.caches) == 2
    last = finished(session, [{"role": "user", "content": f"{ASKED['hall'][0]} " * 8}])
    first = finished(session, [{"role": "user", "content": f"{ASKED['kitchen'][0]} " * 8}])
    assert last.reused_tokens > 40
    assert first.reused_tokens < 10


def test_a_conversation_after_a_single_prompt_keeps_its_history(demo_for: DemoFor) -> None:
    session = edgephi.runtime.load(demo_for("cpu"), context=CONTEXT)
    session.generate("turn on the kitchen light", GREEDY)
    chat = session.chat()
    for question in ASKED["kitchen"]:
        used = chat.context_used
        answer = chat.say(question, GREEDY)
        "".join(answer)
        assert answer.generation.reused_tokens >= used - 1
