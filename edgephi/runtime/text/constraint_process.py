"""The process that holds answers to rules: `python -P -m edgephi.runtime.text.constraint_process`.

The library `llguidance` compiles schemas, regular expressions and grammars, and says which tokens may come
next. Its own limits do not hold for all that they can ask for: a schema of 700 bytes takes nine gigabytes.
See `edgephi.runtime.text.constraint` for the other end, and `edgephi.processes.limited_process` for how the
two talk.

A question is one JSON document: {"compile": N, "rules": {"kind": KIND, "text": TEXT}} begins the answer
number N, {"take": N, "token": ID} goes on with it; "forget" is a list of answers that have ended. The answer
is a byte and then one bit a token, 1 for those that may come. The byte is 1 when nothing but the end of N
may, 2 when a space that comes now is no part of the answer's text.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from edgephi.commands import install_command
from edgephi.errors import BadBundleError, BadInputError, NotSupportedError
from edgephi.processes.limited_process import Answer, answer_questions
from edgephi.runtime.text.rules import JSON_LAYOUT, Kind, Rules
from edgephi.runtime.text.tokenizer_file import leaves_out_first_space

GOING_ON, FINISHED, OPENING = b"\0", b"\1", b"\2"
_BEHIND_A_SPACE = {"lark_grammar": 'start: " " @answer'}
_ANYTHING_BEHIND_A_SPACE = {"lark_grammar": "start: / (?s:.*)/"}
_GBNF = re.compile(r"^\s*root\s*::=", re.MULTILINE)  # its first rule has this name
_LONGEST_REASON = 200  # letters
_HINTS: dict[Kind, str] = {
    "json_schema": "see which keywords llguidance supports: https://github.com/guidance-ai/llguidance",
    "regex": "see what can be written, all but look-around: https://docs.rs/regex/latest/regex/#syntax",
    "tools": "see which keywords of schemas llguidance supports: https://github.com/guidance-ai/llguidance",
    "grammar": "see https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md",
}


class Matchers:
    """The answers that are held to rules, for the tokens of one bundle.

    Raises NotSupportedError without the library, and BadBundleError when it cannot read the tokenizer.
    """

    def __init__(self, tokenizer_file: Path, stop_token_ids: list[int]) -> None:
        try:
            import llguidance
        except ImportError as cause:
            raise NotSupportedError(
                f"answers that are held to rules need the library llguidance, found: {cause}",
                hint=install_command("serve"),
            ) from None
        self._library: Any = llguidance
        self._matchers: dict[int, Matcher] = {}
        leaves_out_space = leaves_out_first_space(tokenizer_file)
        try:
            text = tokenizer_file.read_text(encoding="utf-8")
            self._tokenizer = llguidance.LLTokenizer(text, eos_token=stop_token_ids)
        except (OSError, UnicodeDecodeError, ValueError, RuntimeError) as cause:
            raise BadBundleError(
                f"{tokenizer_file}: expected a tokenizer that llguidance can read, found {_one_line(cause)}",
                hint="ask for answers without a schema or grammar, or build the bundle again",
            ) from None
        anything = Rules("grammar", "")
        self._spaces = self._matcher(anything, _ANYTHING_BEHIND_A_SPACE).mask() if leaves_out_space else None

    def answer(self, question: bytes) -> bytes:
        """What a question is answered. Raises BadInputError for rules that no answer can be held to."""
        asked: dict[str, Any] = json.loads(question)
        for number in asked["forget"]:
            self._matchers.pop(number, None)
        if "compile" in asked:
            matcher = self._matchers[asked["compile"]] = self._compile(Rules(**asked["rules"]))
        else:
            matcher = self._matchers[asked["take"]]
            matcher.take(asked["token"])
            if matcher.is_stopped():
                return FINISHED
        return (OPENING if matcher.is_at_space else GOING_ON) + matcher.mask()

    def _compile(self, rules: Rules) -> Matcher:
        grammar = {"name": "answer", **_grammar(rules)}
        matcher = self._matcher(rules, grammar)
        matcher.mask()  # whether any answer is possible at all
        if self._spaces is None:
            return matcher
        return Opening(self._matcher(rules, _BEHIND_A_SPACE, grammar), matcher, self._spaces)

    def _matcher(self, rules: Rules, *grammars: dict[str, Any]) -> Matcher:
        limits = self._library.LLParserLimits(verbose_errors=False)
        text = json.dumps({"grammars": grammars})
        return Matcher(self._library.LLMatcher(self._tokenizer, text, log_level=0, limits=limits), rules)


class Matcher:
    """One answer that is held to rules. Everything raises BadInputError when it cannot be."""

    def __init__(self, matcher: Any, rules: Rules) -> None:
        self._matcher = matcher
        self._rules = rules
        self._check()

    @property
    def is_at_space(self) -> bool:
        """Whether a space that comes now is no part of the answer's text."""
        return False

    def mask(self) -> bytes:
        """One bit a token, 1 for those that may come."""
        mask: bytes = self._matcher.compute_bitmask()
        self._check()
        return mask

    def take(self, token: int) -> None:
        """The token that has come."""
        if not self._matcher.consume_token(token):
            self._check()

    def is_stopped(self) -> bool:
        """Whether nothing but the end may come."""
        self._check()
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise _refused(self._rules, self._matcher.get_error())


class Opening(Matcher):
    """An answer whose first space is left out of its text, as tokenizers of SentencePiece's kind do.

    Models are used to begin with that space; without it they would have to begin with a token that they
    hardly know. So an answer may follow the rules behind a space, or begin without one; where the rules ask
    for a space, two of them come.
    """

    def __init__(self, behind_a_space: Matcher, plain: Matcher, spaces: bytes) -> None:
        self._behind_a_space = behind_a_space
        self._plain = plain
        self._spaces = spaces
        self._chosen: Matcher | None = None

    @property
    def is_at_space(self) -> bool:
        """See Matcher."""
        return self._chosen is None

    def mask(self) -> bytes:
        """See Matcher."""
        if self._chosen is not None:
            return self._chosen.mask()
        both = zip(self._behind_a_space.mask(), self._plain.mask(), self._spaces, strict=True)
        return bytes(behind | plain & ~spaces for behind, plain, spaces in both)

    def take(self, token: int) -> None:
        """See Matcher."""
        if self._chosen is None:
            is_space = self._spaces[token // 8] >> token % 8 & 1
            self._chosen = self._behind_a_space if is_space else self._plain
        self._chosen.take(token)

    def is_stopped(self) -> bool:
        """See Matcher."""
        return self._chosen is not None and self._chosen.is_stopped()


def _grammar(rules: Rules) -> dict[str, Any]:
    """Rules as llguidance takes them. Raises BadInputError."""
    if rules.kind == "json_schema":
        return {"json_schema": _with_layout(rules)}
    if rules.kind == "regex":
        return {"lark_grammar": f"start: /{_without_slashes(rules.text)}/"}
    if rules.kind == "grammar" and _GBNF.search(rules.text):
        from llguidance.gbnf_to_lark import gbnf_to_lark

        try:
            return {"lark_grammar": gbnf_to_lark(rules.text)}
        except Exception as cause:  # it raises nothing narrower
            raise _refused(rules, cause) from None
    return {"lark_grammar": rules.text}


def _with_layout(rules: Rules) -> dict[str, Any]:
    """A schema with what llguidance is to know beside it. Raises BadInputError."""
    try:
        schema = json.loads(rules.text)
    except (ValueError, RecursionError) as cause:
        raise _refused(rules, cause) from None
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise _refused(rules, f"{rules.text.strip()[:20]}, which is not an object")
    return {**schema, "x-guidance": JSON_LAYOUT}


def _without_slashes(regex: str) -> str:
    """A regular expression that can stand between slashes on one line of a grammar.

    All of an answer must match, so anchors at its ends say nothing; llguidance knows none.
    """
    regex = regex.removeprefix("^")
    if re.search(r"(?<!\\)(\\\\)*\$$", regex):
        regex = regex.removesuffix("$")
    escaped = re.sub(r"(\\.)|/", lambda found: found[1] or r"\/", regex, flags=re.DOTALL)
    return escaped.replace("\r", r"\r").replace("\n", r"\n")


def _refused(rules: Rules, reason: object) -> BadInputError:
    found = _one_line(reason).removesuffix("<non-verbose/>").strip()
    if found.startswith("NoExtension"):
        found = "one that no answer ever fulfils"
    return BadInputError(
        f"expected {rules.name} to hold an answer to, found: {found}", hint=_HINTS[rules.kind]
    )


def _one_line(reason: object) -> str:
    text = " ".join(str(reason).split()) or type(reason).__name__
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "…"


def _prepare(arguments: list[str]) -> Answer:
    tokenizer_file, *stop_token_ids = arguments
    return Matchers(Path(tokenizer_file), list(map(int, stop_token_ids))).answer


if __name__ == "__main__":
    answer_questions(_prepare)
