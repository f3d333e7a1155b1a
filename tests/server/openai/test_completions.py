"""Raw texts over the API: continued, echoed and scored, one or many at once."""

import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

import edgephi.runtime
from edgephi.runtime.session import Options, Session
from tests.server.conftest import CONTEXT
from tests.server.serving import PATIENCE, Server, until

MODEL = "demo-cpu"
CHAT = "<|user|>\nturn on the kitchen light<|end|>\n<|assistant|>\n"
TEXTS = ["turn on the", "set a timer for", "what is the"]


@pytest.fixture(scope="module")
def session(demo_bundle: Path) -> Session:
    """The same bundle without any server."""
    return edgephi.runtime.load(demo_bundle)


def continued(session: Session, text: str | list[int], tokens: int = 8) -> str:
    return "".join(session.complete(text, Options(max_tokens=tokens)))


class TestContinued:
    def test_a_text(self, client: openai.OpenAI, session: Session) -> None:
        expected = continued(session, CHAT, 100)
        answer = client.completions.create(model=MODEL, prompt=CHAT, max_tokens=100)
        assert answer.choices[0].text == expected
        assert answer.choices[0].finish_reason == "stop"
        stream = list(client.completions.create(model=MODEL, prompt=CHAT, max_tokens=100, stream=True))
        assert "".join(chunk.choices[0].text for chunk in stream) == expected
        assert stream[-1].choices[0].finish_reason == "stop"

    def test_a_short_answer_unless_told_otherwise(self, client: openai.OpenAI) -> None:
        answer = client.completions.create(model=MODEL, prompt="turn on the")
        assert answer.usage is not None and answer.usage.completion_tokens <= 16

    def test_usage_of_a_stream(self, client: openai.OpenAI) -> None:
        *_, last = client.completions.create(
            model=MODEL, prompt="turn on", stream=True, stream_options={"include_usage": True}
        )
        assert last.choices == []
        assert last.usage is not None and last.usage.prompt_tokens > 0

    def test_logprobs(self, client: openai.OpenAI) -> None:
        answer = client.completions.create(model=MODEL, prompt="turn on the", logprobs=2, max_tokens=5)
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None and logprobs.tokens and logprobs.top_logprobs and logprobs.text_offset
        assert logprobs.text_offset[0] == 0
        assert "".join(logprobs.tokens).removesuffix("<|end|>") == answer.choices[0].text
        assert all(len(each) <= 2 for each in logprobs.top_logprobs)
        assert all((value or 0) <= 0 for value in logprobs.token_logprobs or [])

    def test_the_token_that_came_is_always_among_the_likely_ones(self, client: openai.OpenAI) -> None:
        answer = client.completions.create(
            model=MODEL, prompt="turn", logprobs=1, max_tokens=12, temperature=2, seed=3
        )
        logprobs: Any = answer.choices[0].logprobs
        for token, logprob, top in zip(
            logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
        ):
            assert max(top.values()) >= logprob
            assert token in top and len(top) <= 2

    def test_tokens_in_place_of_a_text(self, client: openai.OpenAI, session: Session) -> None:
        tokens = session.raw.encode(CHAT)
        for prompt in (tokens, [tokens]):
            answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=8)
            assert answer.choices[0].text == continued(session, tokens)


class TestMany:
    def test_each_text_is_a_choice(self, client: openai.OpenAI, session: Session) -> None:
        expected = [continued(session, text) for text in TEXTS]
        for prompt in (TEXTS, [session.raw.encode(text) for text in TEXTS]):
            answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=8)
            assert [(choice.index, choice.text) for choice in answer.choices] == [*enumerate(expected)]
            assert answer.usage is not None
            assert answer.usage.prompt_tokens == sum(len(session.raw.encode(text)) for text in TEXTS)
            assert len(TEXTS) < answer.usage.completion_tokens <= 8 * len(TEXTS)

    def test_streamed(self, client: openai.OpenAI, session: Session) -> None:
        found: dict[int, str] = {}
        reasons: dict[int, str] = {}
        for chunk in client.completions.create(model=MODEL, prompt=TEXTS, max_tokens=8, stream=True):
            for choice in chunk.choices:
                assert choice.index not in reasons
                found[choice.index] = found.get(choice.index, "") + choice.text
                if choice.finish_reason:
                    reasons[choice.index] = choice.finish_reason
        assert found == dict(enumerate(continued(session, text) for text in TEXTS))
        assert list(reasons) == list(range(len(TEXTS)))

    def test_the_rest_is_not_computed_when_the_client_goes_away(self, server: Server) -> None:
        before = server.metric('edgephi_tokens_total{kind="prompt"}')
        many = ["turn on the kitchen light " * 40 + str(number) for number in range(128)]
        body = {"prompt": many, "max_tokens": 0, "echo": True, "logprobs": 1}
        with httpx2.stream("POST", f"{server.url}/v1/completions", json=body | {"stream": True}) as stream:
            next(stream.iter_lines())
            assert server.get("/health").status_code == 200  # while it computes
        until(lambda: not server.metric("edgephi_engine_busy"), "the end of the work")
        read = server.metric('edgephi_tokens_total{kind="prompt"}') - before
        assert read < 64 * 200

    def test_others_wait_their_turn(self, server: Server) -> None:
        """The server answers what needs no engine while it scores, and the next request after it."""
        body = {"prompt": ["turn on the light " * 60] * 8, "max_tokens": 0, "echo": True, "logprobs": 0}
        answers: list[httpx2.Response] = []

        def ask() -> None:
            answers.append(httpx2.post(f"{server.url}/v1/completions", json=body, timeout=PATIENCE))

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.05)
        assert server.get("/v1/models").elapsed.total_seconds() < 1
        assert server.chat().status_code == 200
        thread.join()
        assert [answer.status_code for answer in answers] == [200]


class TestEchoed:
    @pytest.mark.parametrize("stream", [False, True])
    def test_the_text_stands_before_the_answer(
        self, client: openai.OpenAI, session: Session, stream: bool
    ) -> None:
        answer: Any = client.completions.create(
            model=MODEL, prompt=CHAT, max_tokens=8, echo=True, stream=stream
        )
        chunks = answer if stream else [answer]
        text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
        assert text == CHAT + continued(session, CHAT)

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("max_tokens", [0, 1, 5])
    def test_with_the_scores_of_its_tokens(
        self, client: openai.OpenAI, session: Session, max_tokens: int, stream: bool
    ) -> None:
        text = "öffne die Tür — 🙂 <|end|>\n turn on the"
        scores = list(session.score(text, alternatives=2))
        answer: Any = client.completions.create(
            model=MODEL, prompt=text, max_tokens=max_tokens, echo=True, logprobs=2, stream=stream
        )
        choices = [choice for chunk in (answer if stream else [answer]) for choice in chunk.choices]
        parts = [choice.logprobs for choice in choices if choice.logprobs]
        tokens, logprobs, likely, offsets = (
            [each for part in parts for each in getattr(part, name)]
            for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        )
        assert len(tokens) == len(scores) + max_tokens
        assert "".join(choice.text for choice in choices).startswith(text)
        assert logprobs[0] is None and likely[0] is None
        given = len(scores)
        assert logprobs[1:given] == pytest.approx([score.logprob for score in scores[1:]], abs=1e-3)
        assert tokens[:given] == [score.text for score in scores]
        for score, top in zip(scores[1:], likely[1:given], strict=True):
            assert score.text in top and score.alternatives[0].text in top
        assert offsets == [sum(map(len, tokens[:place])) for place in range(len(tokens))]

    def test_the_one_token_behind_it_is_the_one_that_comes_without_scores(
        self, client: openai.OpenAI, session: Session
    ) -> None:
        """It is taken from the logits of the scores, and not computed again."""
        answer = client.completions.create(model=MODEL, prompt=CHAT, max_tokens=1, echo=True, logprobs=1)
        assert answer.choices[0].text == CHAT + continued(session, CHAT, 1)
        assert answer.usage is not None and answer.usage.completion_tokens == 1

    def test_tokens_come_back_as_text(self, client: openai.OpenAI, session: Session) -> None:
        tokens = session.raw.encode(TEXTS[0])
        answer = client.completions.create(model=MODEL, prompt=tokens, max_tokens=0, echo=True)
        assert answer.choices[0].text == TEXTS[0]
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(tokens), 0)

    def test_a_text_may_fill_the_context(self, client: openai.OpenAI, session: Session) -> None:
        tokens = (session.raw.encode(CHAT) * CONTEXT)[:CONTEXT]
        answer = client.completions.create(model=MODEL, prompt=tokens, max_tokens=0, echo=True, logprobs=0)
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None and len(logprobs.token_logprobs or []) == CONTEXT
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model=MODEL, prompt=tokens, max_tokens=1, echo=True, logprobs=0)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError, match=f"the prompt has {CONTEXT + 1} tokens"):
            client.completions.create(model=MODEL, prompt=[*tokens, tokens[0]], max_tokens=0, echo=True)


class TestStopTokens:
    """One that ends an answer has a score too: harnesses take the last token for the one that came."""

    @pytest.mark.parametrize("stream", [False, True])
    def test_it_has_a_score_and_no_text(self, client: openai.OpenAI, session: Session, stream: bool) -> None:
        whole = CHAT + continued(session, CHAT, 100)
        answer: Any = client.completions.create(
            model=MODEL, prompt=whole, max_tokens=1, echo=True, logprobs=1, stream=stream
        )
        choices = [choice for chunk in (answer if stream else [answer]) for choice in chunk.choices]
        tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.tokens]
        assert "".join(choice.text for choice in choices) == whole
        assert tokens[-1] == "<|end|>"
        assert len(tokens) == len(session.raw.encode(whole)) + 1
        assert choices[-1].finish_reason == "stop"


class TestRefused:
    @pytest.mark.parametrize("members", [{"best_of": 2}, {"n": 2}, {"suffix": "x"}])
    def test_what_is_not_offered(self, client: openai.OpenAI, members: dict[str, Any]) -> None:
        (name,) = members
        with pytest.raises(openai.BadRequestError, match=f"{name} is not supported"):
            client.completions.create(model=MODEL, prompt="turn", **members)

    @pytest.mark.parametrize(
        "prompt",
        ["", [], [""], [[]], ["a", ""], ["a", [1]], [1, "a"], [-1], [1 << 40], ["a"] * 129, [[1], 1], [None]],
        ids=str,
    )
    def test_prompts_that_are_none(self, server: Server, prompt: Any) -> None:
        answer = httpx2.post(f"{server.url}/v1/completions", json={"prompt": prompt}, timeout=PATIENCE)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"].startswith("prompt")

    def test_tokens_that_the_model_does_not_have(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="vocabulary, found 1000000"):
            client.completions.create(model=MODEL, prompt=[5, 1_000_000])

    def test_nothing_at_all(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model=MODEL, prompt="turn", max_tokens=0)
        assert caught.value.param == "max_tokens"

    def test_one_text_past_the_context_is_told_before_any_is_computed(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model=MODEL, prompt=["turn", "light " * (CONTEXT + 1)], stream=True)
        assert caught.value.code == "context_length_exceeded"
