"""Answers that are held to a JSON schema."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgephi.runtime
from edgephi.bundle.manifest import read_manifest
from edgephi.errors import BadBundleError, BadInputError
from edgephi.runtime.session import Options, Session
from edgephi.runtime.text.constraint import ConstraintCompiler
from edgephi.runtime.text.rules import Rules
from tests.installs import installs
from tests.property_profile import examples
from tests.runtime.conftest import TARGETS, DemoFor

SCHEMAS: dict[str, dict[str, Any]] = {
    "light": {
        "type": "object",
        "properties": {
            "room": {"enum": ["kitchen", "bath", "hall"]},
            "on": {"type": "boolean"},
            "level": {"type": "integer", "minimum": 0, "maximum": 100},
        },
        "required": ["room", "on", "level"],
        "additionalProperties": False,
    },
    "list": {"type": "array", "items": {"type": "string", "maxLength": 6}, "minItems": 2, "maxItems": 3},
    "nested": {
        "type": "object",
        "properties": {
            "light": {"$ref": "#/$defs/light"},
            "note": {"type": ["string", "null"], "maxLength": 9},
        },
        "required": ["light", "note"],
        "additionalProperties": False,
        "$defs": {
            "light": {
                "type": "object",
                "properties": {"on": {"type": "boolean"}},
                "required": ["on"],
                "additionalProperties": False,
            }
        },
    },
    "pattern": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{2}$"},
    "choice": {
        "anyOf": [{"const": "yes"}, {"type": "integer", "multipleOf": 5, "minimum": 10, "maximum": 90}]
    },
    "number": {"type": "number", "minimum": -2, "maximum": 2},
}
ANY_OBJECT = '{"type": "object"}'


def schema_of(schema: Any) -> Rules:
    return Rules("json_schema", json.dumps(schema))


@pytest.fixture(scope="module", params=TARGETS)
def session(request: pytest.FixtureRequest, demo_for: DemoFor) -> Session:
    return edgephi.runtime.load(demo_for(request.param), provider="cpu")


@pytest.fixture(scope="module")
def compiler(demo_bundle: Path) -> ConstraintCompiler:
    stops = read_manifest(demo_bundle).chat.stop_token_ids
    return ConstraintCompiler(demo_bundle / "model/tokenizer.json", stops)


class TestAnswers:
    @pytest.mark.parametrize("name", SCHEMAS)
    def test_are_json_of_the_schema(self, session: Session, name: str) -> None:
        schema = SCHEMAS[name]
        for sampling in ({}, {"temperature": 3.0, "seed": 1}, {"temperature": 1.0, "top_p": 0.5, "seed": 2}):
            options = Options(json_schema=json.dumps(schema), max_tokens=400, **sampling)  # type: ignore[arg-type]
            generation = session.generate("set the kitchen light to 30 percent", options)
            assert generation.stop_reason == "stop"
            jsonschema.validate(json.loads(generation.text), schema)

    def test_that_were_good_anyway_stay_as_they_are(self, session: Session) -> None:
        prompt = "turn on the kitchen light"
        free = session.generate(prompt)
        held = session.generate(prompt, Options(json_schema=ANY_OBJECT))
        assert isinstance(json.loads(free.text), dict)
        assert held.text == free.text

    def test_stream_in_pieces(self, session: Session) -> None:
        options = Options(json_schema=json.dumps(SCHEMAS["light"]), max_tokens=400)
        answer = session.answer([{"role": "user", "content": "who are you?"}], options)
        pieces = list(answer)
        assert len(pieces) > 5
        jsonschema.validate(json.loads("".join(pieces)), SCHEMAS["light"])
        # The model would rather talk; the next answer is free again.
        assert "demo" in session.generate("who are you?").text

    def test_that_are_cut_off_are_the_beginning_of_one(self, session: Session) -> None:
        schema = json.dumps(SCHEMAS["light"])
        whole = session.generate("turn off the light", Options(json_schema=schema, max_tokens=400))
        cut = session.generate("turn off the light", Options(json_schema=schema, max_tokens=5))
        assert (cut.stop_reason, cut.generated_tokens) == ("length", 5)
        assert whole.text.startswith(cut.text)

    def test_end_where_the_schema_does_without_another_token(self, session: Session) -> None:
        generation = session.generate("hello", Options(json_schema='{"const": 7}'))
        assert (generation.text, generation.stop_reason) == ("7", "stop")
        assert generation.generated_tokens <= 2  # perhaps a space in front, which is not shown


class TestMasks:
    def test_the_end_may_come_only_where_the_answer_may_end(
        self, compiler: ConstraintCompiler, demo_bundle: Path
    ) -> None:
        stops = list(read_manifest(demo_bundle).chat.stop_token_ids)
        session = edgephi.runtime.load(demo_bundle)
        constraint = compiler.compile(schema_of({"type": "integer"}))
        logits = np.zeros(768, np.float32)
        assert not np.isfinite(constraint.masked(logits)[stops]).any()
        (one,) = session.engine.encode("1")[1:]  # without the space in front
        constraint.take(one)
        masked = constraint.masked(logits)
        assert np.isfinite(masked[stops]).all()
        assert np.isfinite(masked[one])
        assert not constraint.is_finished
        assert (logits == 0).all()  # the engine's own array is left alone

    def test_tokens_that_the_tokenizer_does_not_have(self, compiler: ConstraintCompiler) -> None:
        masked = compiler.compile(Rules("json_schema", ANY_OBJECT)).masked(np.zeros(5000, np.float32))
        assert masked.shape == (5000,)
        assert not np.isfinite(masked[747:]).any()
        assert np.isfinite(masked).any()

    @settings(max_examples=examples(50))
    @given(seed=st.integers(0, 1 << 20), name=st.sampled_from(sorted(SCHEMAS)))
    def test_whatever_is_drawn_is_json_of_the_schema(
        self, compiler: ConstraintCompiler, demo_bundle: Path, seed: int, name: str
    ) -> None:
        from edgephi.runtime.text.tokenizer_file import token_bytes

        spelled = token_bytes(demo_bundle / "model/tokenizer.json")
        stops = read_manifest(demo_bundle).chat.stop_token_ids
        constraint, random = compiler.compile(schema_of(SCHEMAS[name])), np.random.default_rng(seed)
        text = b""
        for _ in range(2000):
            if constraint.is_finished:
                break
            masked = constraint.masked(random.normal(size=768).astype(np.float32))
            token = int(masked.argmax())
            if token in stops:
                break
            constraint.take(token)
            text += spelled[token]
        jsonschema.validate(json.loads(text), SCHEMAS[name])


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ("[]", "not an object"),
        ('"text"', "not an object"),
        ('{"type": "foo"}', "Invalid type: foo"),
        ('{"type": "string", "pattern": "("}', "unclosed group"),
        ('{"$ref": "#/nowhere"}', "does not exist"),
        ('{"$ref": "http://localhost/schema"}', "does not fetch"),
        ('{"not": {}}', "Unimplemented keys"),
        ("false", "not an object"),
        ('{"$ref": "#"}', "no answer ever fulfils"),
        ('{"items":' * 3000 + "{}" + "}" * 3000, "recursion"),
        ('{"enum": ["' + "x" * (1 << 18) + '"]}', "letters"),
        ('{"type": "object", "properties": 3}', "properties must be an object"),
    ],
    ids=lambda value: value[:24],
)
def test_what_is_no_schema_is_refused_before_anything_is_computed(
    compiler: ConstraintCompiler, schema: str, found: str
) -> None:
    with pytest.raises(BadInputError) as caught:
        compiler.compile(Rules("json_schema", schema))
    assert found in caught.value.message
    assert len(caught.value.message.splitlines()) == 1
    assert len(caught.value.message) < 400


@settings(max_examples=examples(300))
@given(
    schema=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["type", "properties", "items", "enum", "anyOf", "$ref", "pattern", "required", "const"]
                )
                | st.text(max_size=3),
                inner | st.sampled_from(["object", "string", "array", "integer", "#"]),
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_no_schema_does_any_harm(compiler: ConstraintCompiler, schema: Any) -> None:
    try:
        constraint = compiler.compile(schema_of(schema))
    except BadInputError as error:
        assert len(error.message.splitlines()) == 1
    else:
        assert np.isfinite(constraint.masked(np.zeros(768, np.float32))).any()


class TestWithout:
    def test_the_library(self, demo_bundle: Path) -> None:
        code = (
            "import sys\n"
            "sys.modules['llguidance'] = None\n"
            "import edgephi.runtime\n"
            "from edgephi.errors import NotSupportedError\n"
            "from edgephi.runtime.session import Options\n"
            "session = edgephi.runtime.load(sys.argv[1])\n"
            "try:\n"
            "    session.generate('hi', Options(json_schema='{}'))\n"
            "except NotSupportedError as error:\n"
            "    print(error.message, error.hint, sep='\\n')\n"
            "print(session.generate('turn on the kitchen light').stop_reason)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, demo_bundle], capture_output=True, text=True, check=True
        )
        message, hint, after = done.stdout.splitlines()
        assert "llguidance" in message
        assert installs(hint, "serve")
        assert after == "stop"

    def test_a_tokenizer(self, tmp_path: Path) -> None:
        with pytest.raises(BadBundleError, match=r"expected a tokenizer, .* found none"):
            ConstraintCompiler(tmp_path / "tokenizer.json", (1,))

    @pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"model": {"type": "BPE"}}'])
    def test_a_tokenizer_that_it_can_read(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(
            BadBundleError, match=r"expected a tokenizer( that llguidance can read)?, found"
        ) as caught:
            ConstraintCompiler(tmp_path / "tokenizer.json", (1,))
        assert len(caught.value.message.splitlines()) == 1

    def test_importing_it(self) -> None:
        code = (
            "import edgephi.runtime.session, sys; print('llguidance' in sys.modules, 'numpy' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["False", "False"]


def test_every_engines_artifact_has_the_tokenizer(demo_for: DemoFor) -> None:
    for target in TARGETS:
        assert (demo_for(target) / "model/tokenizer.json").is_file(), target
