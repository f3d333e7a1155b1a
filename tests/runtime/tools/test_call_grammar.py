"""The grammar of calls: whatever a model would rather write, what it calls is whole and fits its schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)

from edgephi.bundle.manifest import read_manifest
from edgephi.chat.tools.call_form import PHI_4_MINI_FORM, TAUGHT_FORM, CallForm
from edgephi.chat.tools.call_reader import CallReader
from edgephi.chat.tools.function import calling
from edgephi.errors import BadInputError
from edgephi.runtime.text.constraint import ConstraintCompiler
from edgephi.runtime.text.rules import Rules
from edgephi.runtime.text.tokenizer_file import added_tokens, token_bytes
from edgephi.runtime.tools.call_grammar import NO_ADDED_TOKENS, AddedTokens, call_grammar
from tests.chat.tools.functions import LIGHT, TOOLS
from tests.chat.tools.test_call_reader import BARE_FORM, FUNCTOOLS_FORM
from tests.property_profile import examples

SCHEMAS = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in TOOLS}
# The demo's vocabulary has a token of its own for this text.
SPECIAL_FORM = CallForm(
    '<|system|>{"name": "', '", "arguments": ', '}{"name": "', "}<|user|>", "by the template"
)
ONE = {"type": "object", "properties": {"b": {}}}
BOTH = '{"b": 1, "c": 1}'
FORMS = {
    "taught": TAUGHT_FORM,
    "phi-4-mini": PHI_4_MINI_FORM,
    "functools": FUNCTOOLS_FORM,
    "bare": BARE_FORM,
    "special tokens": SPECIAL_FORM,
}


@pytest.fixture(scope="module")
def tokenizer(demo_bundle: Path) -> Path:
    return demo_bundle / "model/tokenizer.json"


@pytest.fixture(scope="module")
def stops(demo_bundle: Path) -> tuple[int, ...]:
    return read_manifest(demo_bundle).chat.stop_token_ids


@pytest.fixture(scope="module")
def compiler(tokenizer: Path, stops: tuple[int, ...]) -> ConstraintCompiler:
    return ConstraintCompiler(tokenizer, stops)


@pytest.fixture(scope="module")
def tokens(tokenizer: Path) -> AddedTokens:
    added = added_tokens(tokenizer)
    return AddedTokens({text: added[text] for text in ("<|system|>", "<|user|>")})


def drawn(
    compiler: ConstraintCompiler, rules: Rules, spelled: dict[int, bytes], stops: tuple[int, ...], seed: int
) -> str | None:
    """An answer by chance, its stop tokens likely; None where it went on for too long."""
    constraint, random, text = compiler.compile(rules), np.random.default_rng(seed), b""
    for _ in range(1500):
        if constraint.is_finished:
            break
        logits = random.normal(size=768).astype(np.float32)
        logits[list(stops)] += 4
        token = int(constraint.masked(logits).argmax())
        if token in stops:
            break
        constraint.take(token)
        text += spelled[token]
    else:
        return None
    return text.decode().removeprefix(" ")


@settings(max_examples=examples(60))
@given(
    seed=st.integers(0, 1 << 20),
    form=st.sampled_from(sorted(FORMS)),
    choice=st.sampled_from(["required", "light", "lights", "get_time"]),
    parallel=st.booleans(),
)
def test_whatever_is_drawn_is_calls_that_fit_their_schemas(
    compiler: ConstraintCompiler,
    tokenizer: Path,
    stops: tuple[int, ...],
    tokens: AddedTokens,
    seed: int,
    form: str,
    choice: str,
    parallel: bool,
) -> None:
    may_call = calling(TOOLS, choice, parallel=parallel)
    rules = call_grammar(FORMS[form], may_call, tokens)
    text = drawn(compiler, rules, token_bytes(tokenizer), stops, seed)
    assert text is not None
    reader = CallReader(FORMS[form])
    shown, _ = reader.feed(text)
    assert (shown, reader.rest(), reader.is_inside) == ("", "", False)
    assert reader.calls
    assert parallel or len(reader.calls) == 1
    for call in reader.calls:
        assert choice in ("required", call.name)
        arguments = json.loads(call.arguments)
        jsonschema.validate(arguments, SCHEMAS[call.name])
        assert arguments.keys() <= SCHEMAS[call.name].get("properties", {}).keys()


def accepts(
    compiler: ConstraintCompiler, rules: Rules, tokenizer: Path, text: str, *, stops: tuple[int, ...]
) -> bool:
    """Whether all of a text may come, and then the end."""
    constraint = compiler.compile(rules)
    for token in Tokenizer.from_file(str(tokenizer)).encode(text, add_special_tokens=False).ids:
        if not np.isfinite(constraint.masked(np.zeros(800, np.float32))[token]):
            return False
        constraint.take(token)
    return constraint.is_finished or bool(
        np.isfinite(constraint.masked(np.zeros(800, np.float32))[list(stops)]).all()
    )


CALL = '{"name": "light", "arguments": {"room": "bath", "on": true}}'


@pytest.mark.parametrize(
    ("text", "auto", "required"),
    [
        ("It is light.", True, False),
        (f"<tool_call>\n{CALL}\n</tool_call>", True, True),
        (f"I look. <tool_call>\n{CALL}\n</tool_call>", True, False),
        (f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{CALL}\n</tool_call>", True, True),
        (f"<tool_call>\n{CALL}\n</tool_call> and more", False, False),
        (f"<tool_call>\n{CALL}", False, False),
        ("<tool_call> is how I would call", False, False),
        ("<tool", True, False),
        (CALL, True, False),
        ('<tool_call>\n{"name": "door", "arguments": {}}\n</tool_call>', False, False),
        ('<tool_call>\n{"name": "light", "arguments": {"room": "bath"}}\n</tool_call>', False, False),
        (
            '<tool_call>\n{"name": "light", "arguments": {"room": "bath", "on": true, "a": 1}}\n</tool_call>',
            False,
            False,
        ),
    ],
)
def test_text_may_come_before_a_call_and_nothing_broken_after_it(
    compiler: ConstraintCompiler,
    tokenizer: Path,
    stops: tuple[int, ...],
    text: str,
    auto: bool,
    required: bool,
) -> None:
    for choice, expected in (("auto", auto), ("required", required)):
        rules = call_grammar(TAUGHT_FORM, calling([LIGHT], choice), NO_ADDED_TOKENS)
        assert accepts(compiler, rules, tokenizer, text, stops=stops) == expected, choice


def test_an_answer_without_a_call_may_have_a_schema_of_its_own(
    compiler: ConstraintCompiler, tokenizer: Path, stops: tuple[int, ...]
) -> None:
    rules = call_grammar(TAUGHT_FORM, calling([LIGHT]), NO_ADDED_TOKENS, content='{"type": "integer"}')
    for text, expected in (("12", True), (f"<tool_call>\n{CALL}\n</tool_call>", True), ("light", False)):
        assert accepts(compiler, rules, tokenizer, text, stops=stops) == expected


@pytest.mark.parametrize(
    ("parameters", "arguments", "expected"),
    [
        ({"type": "object", "additionalProperties": {"type": "integer"}}, '{"a": 1}', True),
        ({"properties": {"a": {"type": "object", "properties": {"b": {}}}}}, '{"a": {"c": 1}}', False),
        ({"properties": {"a": {"items": {"properties": {"b": {}}}}}}, '{"a": [{"c": 1}]}', False),
        ({"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}, '{"a": 1, "b": 2}', True),
        ({"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"const": 1}}}, '{"a": 1}', True),
        ({"properties": {"a": {}}, "additionalProperties": True}, '{"b": 1}', True),
        ({"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": ONE}}, '{"a": {"c": 1}}', False),
        ({"$ref": "#/definitions/a", "definitions": {"a": ONE}}, '{"b": 1}', True),
        ({"$ref": "#/definitions/a", "definitions": {"a": ONE}}, '{"c": 1}', False),
        ({"properties": {"a": {"anyOf": [ONE, {"type": "null"}]}}}, '{"a": {"c": 1}}', False),
        ({"properties": {"a": {"anyOf": [ONE, {"type": "null"}]}}}, '{"a": {"b": 1}}', True),
        ({"properties": {"a": {"type": "array", "prefixItems": [ONE]}}}, '{"a": [{"c": 1}]}', False),
        ({"additionalProperties": ONE}, '{"a": {"c": 1}}', False),
        ({"$defs": {"a": ONE}, "allOf": [{"$ref": "#/$defs/a"}, {"properties": {"c": {}}}]}, BOTH, True),
        ({"$defs": {"a": ONE}, "$ref": "#/$defs/a", "properties": {"c": {}}}, BOTH, True),
        ({"properties": {"c": {}}, "anyOf": [ONE]}, '{"c": 1, "b": 1}', True),
        (
            {"$defs": {"a": ONE}, "properties": {"c": {"allOf": [{"$ref": "#/$defs/a"}]}}},
            '{"c": {"d": 1}}',
            False,
        ),
        (
            {"$defs": {"a": ONE}, "properties": {"c": {}}, "anyOf": [{"$ref": "#/$defs/a"}]},
            '{"c": 1, "b": 1}',
            True,
        ),
    ],
    ids=str,
)
def test_objects_have_the_properties_that_they_name_and_others_where_they_say_so(
    compiler: ConstraintCompiler,
    tokenizer: Path,
    stops: tuple[int, ...],
    parameters: dict[str, Any],
    arguments: str,
    expected: bool,
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    rules = call_grammar(TAUGHT_FORM, calling([tool]), NO_ADDED_TOKENS)
    text = f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>'
    assert accepts(compiler, rules, tokenizer, text, stops=stops) == expected


@pytest.mark.parametrize(
    "parameters",
    [{"properties": 3}, {"properties": {"a": {"type": "foo"}}}, {"properties": {"a": {"pattern": "("}}}],
    ids=str,
)
def test_a_schema_that_is_none_is_refused(compiler: ConstraintCompiler, parameters: dict[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    with pytest.raises(BadInputError, match="expected a list of tools to hold an answer to"):
        compiler.compile(call_grammar(TAUGHT_FORM, calling([tool]), NO_ADDED_TOKENS))


@pytest.mark.parametrize("special", [False, True], ids=["ordinary", "special"])
def test_tokens_that_are_made_for_calls_are_used(tmp_path: Path, special: bool) -> None:
    """As the byte-level vocabularies of Phi-4-mini and Qwen have them, the latter beside one for thoughts."""
    marks = ["<|tool_call|>", "<|/tool_call|>", "<tool_call>", "</tool_call>"]
    read = Tokenizer(models.BPE())
    read.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    read.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    read.train_from_iterator(["the light in the bath"], trainer)
    read.add_special_tokens(["<|end|>"])
    read.add_tokens([AddedToken(text, special=special) for text in marks])
    read.add_tokens([AddedToken("<think>", special=False)])
    file = tmp_path / "tokenizer.json"
    read.save(str(file))
    vocabulary = read.get_vocab()
    stops = (vocabulary["<|end|>"],)
    ids = {text: vocabulary[text] for text in marks}
    thought = {"<think>": vocabulary["<think>"]}
    tokens = AddedTokens(ids, thought) if special else AddedTokens({}, ids | thought)
    compiler = ConstraintCompiler(file, stops)
    written = {
        PHI_4_MINI_FORM: f"<|tool_call|>[{CALL}]<|/tool_call|>",
        TAUGHT_FORM: f"<tool_call>\n{CALL}\n</tool_call>",
    }
    for form, text in written.items():
        for choice in ("auto", "required"):
            rules = call_grammar(form, calling([LIGHT], choice), tokens)
            assert accepts(compiler, rules, file, text, stops=stops)
        rules = call_grammar(form, calling([LIGHT]), tokens)
        for before in ("<think>hm<think>", "hm", "hm<think>hm"):
            assert accepts(compiler, rules, file, before, stops=stops)
            assert accepts(compiler, rules, file, before + text, stops=stops)
            assert not accepts(compiler, rules, file, f"{before}{form.mark}hm", stops=stops)
