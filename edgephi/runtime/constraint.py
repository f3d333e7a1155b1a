"""Answers that are JSON of a given schema: before each token, those that would break it are masked.

The library `llguidance` (`pip install 'edgephi[serve]'`) says which tokens may come. It reads the bundle's
`tokenizer.json`, so this works alike with every engine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgephi.errors import BadBundleError, BadInputError, NotSupportedError
from edgephi.runtime.tokenizer_file import leaves_out_first_space

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Tokenizers of SentencePiece's kind leave out a space at the start of an answer, and models are used to begin
# with one; without it they would have to begin with a token that they hardly know.
_BEHIND_A_SPACE = 'start: " "? answer\nanswer: %json '
# As `json.dumps` writes it. With any white space allowed, a small model may write nothing but line breaks.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_LARGEST_SCHEMA = 1 << 18  # letters; an engine answers nobody else while a schema is compiled
_LONGEST_REASON = 200  # letters


class SchemaCompiler:
    """Makes constraints for the tokens of one bundle. Takes some tens of megabytes for a large vocabulary.

    `stop_token_ids` end an answer. Raises NotSupportedError without the library, and BadBundleError when it
    cannot read the tokenizer in `tokenizer_file`.
    """

    def __init__(self, tokenizer_file: Path, stop_token_ids: Sequence[int]) -> None:
        try:
            import llguidance
        except ImportError as cause:
            raise NotSupportedError(
                f"answers of a JSON schema need the library llguidance, found: {cause}",
                hint="pip install 'edgephi[serve]'",
            ) from None
        self._library: Any = llguidance
        if not tokenizer_file.is_file():
            raise BadBundleError(
                f"{tokenizer_file}: expected a tokenizer for answers of a JSON schema, found no such file",
                hint="build the bundle again with this edgephi",
            )
        self._leaves_out_space = leaves_out_first_space(tokenizer_file)
        try:
            text = tokenizer_file.read_text(encoding="utf-8")
            self._tokenizer = llguidance.LLTokenizer(text, eos_token=list(stop_token_ids))
        except (OSError, UnicodeDecodeError, ValueError, RuntimeError) as cause:
            raise BadBundleError(
                f"{tokenizer_file}: expected a tokenizer that llguidance can read, found {_one_line(cause)}",
                hint="ask for answers without a JSON schema, or build the bundle again",
            ) from None

    def compile(self, schema: str) -> Constraint:
        """What holds one answer to a JSON schema, given as JSON text.

        Raises BadInputError when it is no schema, or one that no answer can be held to.
        """
        if len(schema) > _LARGEST_SCHEMA:
            raise BadInputError(
                f"expected a JSON schema of at most {_LARGEST_SCHEMA} letters, found {len(schema)}",
                hint=_HINT,
            )
        rules = _with_layout(schema)
        json_grammar = self._library.LLMatcher.grammar_from_json_schema(rules)
        constraint = self._constraint(json_grammar)
        constraint.check_start()
        return self._constraint(_BEHIND_A_SPACE + rules) if self._leaves_out_space else constraint

    def _constraint(self, grammar: str) -> Constraint:
        limits = self._library.LLParserLimits(verbose_errors=False)
        matcher = self._library.LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise _refused(matcher.get_error())
        return Constraint(matcher)


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


class Constraint:
    """Which tokens may come next in one answer."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    @property
    def is_finished(self) -> bool:
        """Whether the answer is complete and nothing but its end may come."""
        return bool(self._matcher.is_stopped())

    def check_start(self) -> None:
        """Raise BadInputError when no answer is possible at all."""
        self._mask()

    def masked(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """A copy of logits [vocabulary], -inf for tokens that must not come next.

        A stop token may come only where the answer may end. Raises BadInputError when nothing may come.
        """
        import numpy as np

        bits = np.unpackbits(np.frombuffer(self._mask(), np.uint8), bitorder="little")
        masked = np.full_like(logits, -np.inf)
        size = min(len(bits), len(logits))  # some vocabularies are filled up with tokens that do not exist
        np.copyto(masked[:size], logits[:size], where=bits[:size].view(np.bool_))
        return masked

    def take(self, token: int) -> None:
        """The token that has come."""
        if not self._matcher.consume_token(token):
            raise _refused(self._matcher.get_error())

    def _mask(self) -> bytes:
        """One bit a token, 1 for those that may come."""
        mask: bytes = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise _refused(self._matcher.get_error())
        return mask


_HINT = "see which keywords llguidance supports: https://github.com/guidance-ai/llguidance"


def _refused(reason: object) -> BadInputError:
    found = _one_line(reason).removesuffix("<non-verbose/>").strip()
    if found.startswith("NoExtension"):
        found = "one that no answer ever fulfils"
    return BadInputError(f"expected a JSON schema to hold an answer to, found: {found}", hint=_HINT)


def _one_line(reason: object) -> str:
    text = " ".join(str(reason).split()) or type(reason).__name__
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "…"
