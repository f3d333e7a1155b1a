"""Texts that cannot fit into the context, and messages full of special tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import edgephi.runtime
from edgephi.errors import PastContextError
from edgephi.runtime.text.chat_prompt import ChatPrompts
from edgephi.runtime.text.prompt_bound import PromptBound
from edgephi.runtime.text.tokenizer_file import added_tokens, coverage
from tests.property_profile import examples
from tests.runtime.conftest import TARGETS, DemoFor
from tests.runtime.text.test_chat_prompt import KINDS, MARK, TextEngine, conversation
from tests.runtime.text.test_tokenizer_file import tokenizer_of
from tests.tokenizer_texts import HARD, OTHER_SPACES, SPACES, SPECIAL, WORDS, texts

CONTEXT = 4096


class CountedEngine(TextEngine):
    """A tokenizer that counts how often it is asked, and how much text it is given at most."""

    calls = 0
    most_letters = 0

    def encode(self, text: str) -> list[int]:
        self.calls += 1
        self.most_letters = max(self.most_letters, len(text))
        return super().encode(text)


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[CountedEngine, Path]:
    kind = "demo" if request.param == "no-strip" else request.param
    file = tokenizer_of(kind, tmp_path)
    return CountedEngine(file, KINDS[request.param].template), file


def prompts(engine: CountedEngine, file: Path, context: int = CONTEXT) -> ChatPrompts:
    return ChatPrompts(engine, added_tokens(file), PromptBound(file, context))  # type: ignore[arg-type]


class TestWhatCannotFit:
    @pytest.mark.parametrize(
        "letters",
        ["a", "<|end|>", "\u4e2d", "1234567890", "x\n", "x" + " " * 950, "<|end|>" + " " * 950],
    )
    def test_is_refused_before_the_tokenizer_reads_it(
        self, engine: tuple[CountedEngine, Path], letters: str
    ) -> None:
        counted, file = engine
        text = letters * (3_000_000 // len(letters))
        with pytest.raises(PastContextError, match=r"the prompt has \d+ (bytes|tokens)"):
            prompts(counted, file).render(conversation(text))
        assert counted.most_letters < 100

    def test_messages_by_their_number(self, engine: tuple[CountedEngine, Path]) -> None:
        counted, file = engine
        with pytest.raises(PastContextError, match="the conversation has 100000 messages"):
            prompts(counted, file).render([{"role": "user", "content": ""}] * 100_000)
        assert counted.calls == 0

    @pytest.mark.parametrize("target", TARGETS)
    def test_on_every_engine_and_by_every_way_in(self, demo_for: DemoFor, target: str) -> None:
        session = edgephi.runtime.load(demo_for(target), provider="cpu")
        text = "<|end|> a" * 300_000
        for ask in (
            session.generate,
            session.complete,
            session.chat().say,
            lambda text: session.chat(system=text).say("hello"),
            lambda text: session.answer([{"role": "user", "content": text}]),
        ):
            with pytest.raises(PastContextError, match=r"the context is \d+ tokens"):
                ask(text)

    def test_white_space_that_the_template_swallows_is_no_reason(self, demo_for: DemoFor) -> None:
        session = edgephi.runtime.load(demo_for("cpu"))
        assert len(session.encode_chat(conversation(" " * 200_000))) < 20
        assert len(session.encode_chat(conversation(" " * 200_000 + "a"))) < 20

    def test_white_space_that_nothing_swallows_is_refused(self, demo_for: DemoFor) -> None:
        session = edgephi.runtime.load(demo_for("cpu"))
        for text in (" " * 200_000, ("x" + " " * 900) * 400, "\u3000" * 200_000 + "x"):
            with pytest.raises(PastContextError, match=r"the prompt has \d+ bytes"):
                session.complete(text)

    def test_white_space_that_a_special_token_swallows_is_no_reason(self, demo_for: DemoFor) -> None:
        session = edgephi.runtime.load(demo_for("cpu"))
        with session.complete(("<|end|>" + " " * 50_000) * 4) as answer:
            next(answer)


@settings(deadline=None, max_examples=examples(60))
@given(text=texts(WORDS, HARD, SPACES, OTHER_SPACES, SPECIAL), repeated=st.integers(1, 50))
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "no-strip"])
def test_no_text_has_fewer_tokens_than_the_bound_says(
    kind: str, text: str, repeated: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = _FILES.setdefault(kind, tokenizer_of(kind, tmp_path_factory.mktemp("tokenizer")))
    assume(MARK not in text)
    found = coverage(file)
    assert found is not None
    text = text * repeated
    engine = _ENGINES.setdefault(kind, TextEngine(file, KINDS[kind].template))
    assert len(engine.encode(text)) >= found.least_tokens(text)


_FILES: dict[str, Path] = {}
_ENGINES: dict[str, TextEngine] = {}


def test_the_bound_is_not_told_where_a_step_may_leave_text_out(tmp_path: Path) -> None:
    content = json.loads(tokenizer_of("demo", tmp_path).read_text())
    for step in ({"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""}):
        file = tmp_path / "other.json"
        file.write_text(json.dumps({**content, "normalizer": step}))
        assert coverage(file) is None


class TestManySpecialTokens:
    def test_take_a_few_calls_and_not_one_for_each(self, engine: tuple[CountedEngine, Path]) -> None:
        counted, file = engine
        text = "".join(f"<|end|>{i}" for i in range(1000))
        made = prompts(counted, file)
        made.encode(made.render(conversation(text)))
        assert counted.calls < 50

    @pytest.mark.parametrize("kind", KINDS)
    def test_are_read_as_if_each_part_were_encoded_by_itself(self, kind: str, tmp_path: Path) -> None:
        file = tokenizer_of("demo" if kind == "no-strip" else kind, tmp_path)
        engine = TextEngine(file, KINDS[kind].template)
        added = added_tokens(file)
        together = ChatPrompts(engine, added)  # type: ignore[arg-type]

        @settings(deadline=None, max_examples=examples(100))
        @given(content=texts(SPECIAL, WORDS, SPACES))
        def check(content: str) -> None:
            assume(MARK not in content)
            rendered = together.render(conversation(content))
            first, *others = rendered.split(MARK)
            assert together.encode(rendered) == engine.encode(first) + _inside(engine, others)

        check()


def _inside(engine: TextEngine, parts: Sequence[str]) -> list[int]:
    """Each part's tokens behind a line's end, without that of the line's end."""
    guard = engine.encode("\n")
    found = []
    for part in parts:
        token_ids = engine.encode("\n" + part)
        assert token_ids[: len(guard)] == guard
        found += token_ids[len(guard) :]
    return found
