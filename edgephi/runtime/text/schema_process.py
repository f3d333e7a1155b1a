"""The process that holds answers to JSON schemas: `python -P -m edgephi.runtime.text.schema_process`.

The library `llguidance` compiles schemas, and says which tokens may come next. Its own limits do not hold for
all that a schema can ask for: one of 700 bytes takes nine gigabytes. See `edgephi.runtime.text.constraint`
for the other end, and `edgephi.processes.limited_process` for how the two talk.

A question is one JSON document: {"compile": N, "schema": TEXT} begins the answer number N, {"take": N,
"token": ID} goes on with it; "forget" is a list of answers that have ended. The answer is a byte, 1 when
nothing but the end of N may come, and then one bit a token, 1 for those that may.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgephi.commands import install_command
from edgephi.errors import BadBundleError, BadInputError, NotSupportedError
from edgephi.processes.limited_process import Answer, answer_questions
from edgephi.runtime.text.tokenizer_file import leaves_out_first_space

# Tokenizers of SentencePiece's kind leave out a space at the start of an answer, and models are used to begin
# with one; without it they would have to begin with a token that they hardly know.
_BEHIND_A_SPACE = 'start: " "? answer\nanswer: %json '
# As `json.dumps` writes it. With any white space allowed, a small model may write nothing but line breaks.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_LONGEST_REASON = 200  # letters
_HINT = "see which keywords llguidance supports: https://github.com/guidance-ai/llguidance"


class Schemas:
    """The answers that are held to schemas, for the tokens of one bundle.

    Raises NotSupportedError without the library, and BadBundleError when it cannot read the tokenizer.
    """

    def __init__(self, tokenizer_file: Path, stop_token_ids: list[int]) -> None:
        try:
            import llguidance
        except ImportError as cause:
            raise NotSupportedError(
                f"answers of a JSON schema need the library llguidance, found: {cause}",
                hint=install_command("serve"),
            ) from None
        self._library: Any = llguidance
        self._matchers: dict[int, Any] = {}
        self._leaves_out_space = leaves_out_first_space(tokenizer_file)
        try:
            text = tokenizer_file.read_text(encoding="utf-8")
            self._tokenizer = llguidance.LLTokenizer(text, eos_token=stop_token_ids)
        except (OSError, UnicodeDecodeError, ValueError, RuntimeError) as cause:
            raise BadBundleError(
                f"{tokenizer_file}: expected a tokenizer that llguidance can read, found {_one_line(cause)}",
                hint="ask for answers without a JSON schema, or build the bundle again",
            ) from None

    def answer(self, question: bytes) -> bytes:
        """What a question is answered. Raises BadInputError for a schema that no answer can be held to."""
        asked: dict[str, Any] = json.loads(question)
        for number in asked["forget"]:
            self._matchers.pop(number, None)
        if "compile" in asked:
            matcher = self._matchers[asked["compile"]] = self._compile(asked["schema"])
        else:
            matcher = self._matchers[asked["take"]]
            if not matcher.consume_token(asked["token"]) or matcher.is_error():
                raise _refused(matcher.get_error())
            if matcher.is_stopped():
                return b"\1"
        return b"\0" + _mask(matcher)

    def _compile(self, schema: str) -> Any:
        rules = _with_layout(schema)
        matcher = self._matcher(self._library.LLMatcher.grammar_from_json_schema(rules))
        _mask(matcher)  # whether any answer is possible at all
        return self._matcher(_BEHIND_A_SPACE + rules) if self._leaves_out_space else matcher

    def _matcher(self, grammar: str) -> Any:
        limits = self._library.LLParserLimits(verbose_errors=False)
        matcher = self._library.LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise _refused(matcher.get_error())
        return matcher


def _mask(matcher: Any) -> bytes:
    """One bit a token, 1 for those that may come."""
    mask: bytes = matcher.compute_bitmask()
    if matcher.is_error():
        raise _refused(matcher.get_error())
    return mask


def _with_layout(schema: str) -> str:
    """A schema with what llguidance is to know beside it, as JSON text in ASCII. Raises BadInputError."""
    try:
        rules = json.loads(schema)
    except (ValueError, RecursionError) as cause:
        raise _refused(cause) from None
    if rules is True:
        rules = {}
    if not isinstance(rules, dict):
        raise _refused(f"{schema.strip()[:20]}, which is not an object")
    return json.dumps({**rules, "x-guidance": _LAYOUT})


def _refused(reason: object) -> BadInputError:
    found = _one_line(reason).removesuffix("<non-verbose/>").strip()
    if found.startswith("NoExtension"):
        found = "one that no answer ever fulfils"
    return BadInputError(f"expected a JSON schema to hold an answer to, found: {found}", hint=_HINT)


def _one_line(reason: object) -> str:
    text = " ".join(str(reason).split()) or type(reason).__name__
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "…"


def _prepare(arguments: list[str]) -> Answer:
    tokenizer_file, *stop_token_ids = arguments
    return Schemas(Path(tokenizer_file), list(map(int, stop_token_ids))).answer


if __name__ == "__main__":
    answer_questions(_prepare)
