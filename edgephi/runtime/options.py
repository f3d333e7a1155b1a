"""How one prompt is to be answered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgephi.commands import edgephi_command
from edgephi.errors import UsageError
from edgephi.runtime.text.rules import Rules

DEFAULT_MAX_TOKENS = 512
MOST_ALTERNATIVES = 20


@dataclass(frozen=True)
class Options:
    """How one prompt is answered. Raises UsageError when a value makes no sense.

    `max_tokens` None is 512 or what the context leaves, whichever is less. `temperature` 0 always takes
    the most likely token; above it, tokens are drawn from the `top_k` most likely ones (0: from all), of
    which only those that make up `top_p` of the probability. The same `seed` draws the same tokens again.

    `system` is the system message of a single prompt, None the bundle's own and "" none; a conversation has
    one of its own. An answer ends before the
    first of the texts in `stop`. `logprobs` asks for the log probability of each token, and of so many of
    the most likely ones at its place. One at most of these three holds the answer to rules: `json_schema` is
    the JSON text of a schema that it is to be JSON of, like '{"type": "object"}'; `regex` is a regular
    expression that all of it matches; `grammar` is a grammar in Lark's syntax as llguidance reads it, or in
    llama.cpp's GBNF. An answer that is cut off by `max_tokens` is the beginning of one that follows them.
    `adapter` is the name of the bundle's adapter to answer with, None the session's own and "" none.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 50
    seed: int | None = None
    system: str | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    json_schema: str | None = None
    regex: str | None = None
    grammar: str | None = None
    adapter: str | None = None

    def __post_init__(self) -> None:
        hint = f"see docs/python-api.md, or `{edgephi_command('run', '--help')}`"
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"expected max_tokens of at least 1, found {self.max_tokens}", hint=hint)
        if not 0 <= self.temperature <= 100:
            raise UsageError(f"expected a temperature from 0 to 100, found {self.temperature}", hint=hint)
        if not 0 < self.top_p <= 1:
            raise UsageError(f"expected top_p above 0 and at most 1, found {self.top_p}", hint=hint)
        if self.top_k < 0:
            raise UsageError(f"expected top_k of at least 0, found {self.top_k}", hint=hint)
        if self.seed is not None and not 0 <= self.seed < 1 << 31:
            raise UsageError(f"expected a seed from 0 to {(1 << 31) - 1}, found {self.seed}", hint=hint)
        if "" in self.stop:
            raise UsageError("expected stop texts, found an empty one", hint=hint)
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_ALTERNATIVES:
            raise UsageError(
                f"expected logprobs from 0 to {MOST_ALTERNATIVES}, found {self.logprobs}", hint=hint
            )
        rules = [rules.name for rules in self._all_rules()]
        if len(rules) > 1:
            raise UsageError(
                f"expected one kind of rules for an answer, found {' and '.join(rules)}", hint=hint
            )

    @property
    def rules(self) -> Rules | None:
        """What the answer is held to, if it is."""
        return next(self._all_rules(), None)

    def _all_rules(self) -> Iterator[Rules]:
        if self.json_schema is not None:
            yield Rules("json_schema", self.json_schema)
        if self.regex is not None:
            yield Rules("regex", self.regex)
        if self.grammar is not None:
            yield Rules("grammar", self.grammar)


GREEDY = Options()
