"""Answers that are held to a regular expression or a grammar."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgephi.runtime
from edgephi.bundle.manifest import read_manifest
from edgephi.errors import BadInputError, UsageError
from edgephi.runtime.session import Options, Session
from edgephi.runtime.text.constraint import ConstraintCompiler
from edgephi.runtime.text.rules import JSON_LAYOUT, Rules
from edgephi.runtime.text.tokenizer_file import added_tokens, token_bytes
from tests.property_profile import examples
from tests.runtime.conftest import TARGETS, DemoFor

REGEXES = {
    "time": r"([01][0-9]|2[0-3]):[0-5][0-9]",
    "choice": r"yes|no|maybe",
    "path": r"(/[a-z]{1,4}){1,3}",
    "escaped slash": r"a\/b\\/[/x]{2}",
    "anchors": r"^[A-Z]{2}-[0-9]{3}$",
    "a dollar": r"[0-9]{2}\$",
    "lines": "one\n[a-c]\r\nthree",
    "spaces in front": r" {2}x",
    "a space or none": r" ?y",
    "letters": r"ä[éè]☃+?",
}
SUM = """
start: term ((" + " | " - ") term)?
term: NUMBER | "(" start ")"
NUMBER: /[1-9][0-9]{0,2}/
"""
SUM_IN_GBNF = """
root ::= term ((" + " | " - ") term)?
term ::= [1-9] [0-9]? | "(" root ")"
"""
ANY = "start: /(?s:.)*/"


@pytest.fixture(scope="module", params=TARGETS)
def session(request: pytest.FixtureRequest, demo_for: DemoFor) -> Session:
    return edgephi.runtime.load(demo_for(request.param), provider="cpu")


@pytest.fixture(scope="module")
def tokenizer(demo_bundle: Path) -> Path:
    return demo_bundle / "model/tokenizer.json"


@pytest.fixture(scope="module")
def stops(demo_bundle: Path) -> tuple[int, ...]:
    return read_manifest(demo_bundle).chat.stop_token_ids


@pytest.fixture(scope="module")
def compiler(tokenizer: Path, stops: tuple[int, ...]) -> ConstraintCompiler:
    return ConstraintCompiler(tokenizer, stops)


class TestAnswers:
    @pytest.mark.parametrize("name", REGEXES)
    def test_match_their_regular_expression(self, session: Session, name: str) -> None:
        for sampling in ({}, {"temperature": 3.0, "seed": 1}):
            options = Options(regex=REGEXES[name], max_tokens=60, **sampling)  # type: ignore[arg-type]
            generation = session.generate("when?", options)
            assert generation.stop_reason == "stop"
            assert re.fullmatch(REGEXES[name], generation.text), generation.text

    @pytest.mark.parametrize("regex", [" x", "x", " ?x", "x +y"])
    @pytest.mark.parametrize("before", ["<|user|>", "a text"])
    def test_begin_as_the_rules_say_wherever_they_begin(
        self, session: Session, before: str, regex: str
    ) -> None:
        answer = session.complete(before, Options(regex=regex, max_tokens=9, logprobs=0))
        for _ in answer:
            pass
        text = answer.generation.text
        assert re.fullmatch(regex, text), text
        scores = answer.generation.scores or ()
        assert b"".join(bytes(score.bytes) for score in scores).decode() == text

    @pytest.mark.parametrize("grammar", [SUM, SUM_IN_GBNF], ids=["Lark", "GBNF"])
    def test_follow_their_grammar(self, session: Session, grammar: str) -> None:
        options = Options(grammar=grammar, temperature=2.0, seed=3, max_tokens=400)
        generation = session.generate("how much?", options)
        text = generation.text
        if generation.stop_reason == "stop":
            assert isinstance(eval(text, {"__builtins__": {}}), int), text
        assert re.fullmatch(r"[0-9() +-]*", text)

    def test_may_be_json_inside_a_grammar(self, session: Session) -> None:
        schema = json.dumps({"const": {"on": True}, "x-guidance": JSON_LAYOUT})
        grammar = f'start: "<call>" %json {schema} "</call>"'
        assert session.generate("hi", Options(grammar=grammar)).text == '<call>{"on": true}</call>'


class TestMasks:
    def test_a_grammar_names_special_tokens(
        self, compiler: ConstraintCompiler, tokenizer: Path, stops: tuple[int, ...]
    ) -> None:
        name, token = next((name, id_) for name, id_ in added_tokens(tokenizer).items() if id_ not in stops)
        constraint = compiler.compile(Rules("grammar", f'start: "x" | {name} "7"'))
        logits = np.zeros(768, np.float32)
        assert np.isfinite(constraint.masked(logits)[token])
        constraint.take(token)
        spelled = token_bytes(tokenizer)
        assert {spelled[int(id_)] for id_ in np.flatnonzero(np.isfinite(constraint.masked(logits)))} == {b"7"}
        # Without its name no grammar lets one through, whatever text it allows.
        free = compiler.compile(Rules("grammar", ANY))
        assert not np.isfinite(free.masked(logits)[token])

    @settings(max_examples=examples(50))
    @given(seed=st.integers(0, 1 << 20), name=st.sampled_from(sorted(REGEXES)))
    def test_whatever_is_drawn_matches(
        self, compiler: ConstraintCompiler, tokenizer: Path, stops: tuple[int, ...], seed: int, name: str
    ) -> None:
        spelled, random = token_bytes(tokenizer), np.random.default_rng(seed)
        constraint = compiler.compile(Rules("regex", REGEXES[name]))
        text = b""
        while not constraint.is_finished:
            token = int(constraint.masked(random.normal(size=768).astype(np.float32)).argmax())
            if token in stops:
                break
            constraint.take(token)
            text += spelled[token]
        # What the text of an answer leaves out.
        assert re.fullmatch(REGEXES[name], text.decode().removeprefix(" ")), text


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        (Rules("regex", "("), "expected a regular expression to hold an answer to, found: "),
        (Rules("regex", r"(?=a)a"), "expected a regular expression to hold an answer to, found: "),
        (Rules("regex", "a&&[b-a]"), "expected a regular expression to hold an answer to, found: "),
        (Rules("regex", "x" * (1 << 18 | 1)), "expected a regular expression of at most "),
        (Rules("grammar", ""), "expected a grammar to hold an answer to, found: "),
        (Rules("grammar", "start: other"), "expected a grammar to hold an answer to, found: "),
        (Rules("grammar", "start: <|no such token|>"), "expected a grammar to hold an answer to, found: "),
        (Rules("grammar", 'root ::= "a" other'), "'other' not found"),
        (Rules("grammar", "root ::= (" * 3000), "expected a grammar to hold an answer to, found: "),
        (Rules("grammar", '{"grammars": []}'), "expected a grammar to hold an answer to, found: "),
    ],
    ids=lambda value: value.text[:24] if isinstance(value, Rules) else None,
)
def test_what_are_no_rules_are_refused_by_their_kind(
    compiler: ConstraintCompiler, rules: Rules, found: str
) -> None:
    with pytest.raises(BadInputError) as caught:
        compiler.compile(rules)
    assert found in caught.value.message
    assert len(caught.value.message.splitlines()) == 1
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    "rules",
    [
        Rules("regex", "^((((a{1,100}){1,100}){1,100}){1,100})$"),
        Rules("regex", "(.*a.{60}){30}"),
        Rules("grammar", "start: A\nA: " + " & ".join(f"/(.*a{i}.*)/" for i in range(30))),
    ],
    ids=["repetitions", "states", "intersections"],
)
def test_rules_that_take_too_much_are_refused_or_bounded(compiler: ConstraintCompiler, rules: Rules) -> None:
    try:
        compiler.compile(rules)
    except BadInputError as error:
        assert len(error.message.splitlines()) == 1
        assert rules.name in error.message
    assert not compiler.compile(Rules("regex", "[0-9]")).is_finished


def test_one_kind_of_rules_only() -> None:
    with pytest.raises(UsageError, match=r"found a JSON schema and a grammar"):
        Options(json_schema="{}", grammar=ANY)
    with pytest.raises(UsageError, match=r"found a regular expression and a grammar"):
        Options(regex="a", grammar=ANY)
