"""How one prompt is to be answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgephi.commands import edgephi_command
from edgephi.errors import UsageError
from edgephi.runtime.images.seen_image import check_crops
from edgephi.runtime.text.rules import Rules

DEFAULT_MAX_TOKENS = 512
MOST_ALTERNATIVES = 20
LEAST_REPETITION_PENALTY, MOST_REPETITION_PENALTY = 0.01, 100

LogitsProcessor = Callable[[Sequence[int], Any], Any]
"""Is given the ids of all words so far and logits [vocabulary] of float32, a copy; returns others."""


@dataclass(frozen=True)
class Options:
    """How one prompt is answered. Raises UsageError when a value makes no sense.

    `max_tokens` None is 512 or what the context leaves, whichever is less. `temperature` 0 always takes
    the most likely token; above it, tokens are drawn from the `top_k` most likely ones (0: from all), of
    which only those that make up `top_p` of the probability, and of these only those that are at least
    `min_p` times as likely as the most likely one. The same `seed` draws the same tokens again.

    Logits are changed before that, in this order. `logit_bias` is added to those of its tokens.
    `repetition_penalty` divides the logits of all tokens of prompt and answer, or multiplies those below 0;
    1 changes nothing. `frequency_penalty`, times how often a token is in the answer, and
    `presence_penalty`, once, are subtracted from those of the answer's tokens; the prompt does not count.
    `logits_processor` is called with the ids of all tokens so far, prompt and answer but no images, and with
    logits [vocabulary], and returns others.

    `system` is the system message of a single prompt, None the bundle's own and "" none; a conversation has
    one of its own. An answer ends before the
    first of the texts in `stop`. `logprobs` asks for the log probability of each token, and of so many of
    the most likely ones at its place. One at most of these three holds the answer to rules: `json_schema` is
    the JSON text of a schema that it is to be JSON of, like '{"type": "object"}'; `regex` is a regular
    expression that all of it matches; `grammar` is a grammar in Lark's syntax as llguidance reads it, or in
    llama.cpp's GBNF. An answer that is cut off by `max_tokens` is the beginning of one that follows them.
    `adapter` is the name of the bundle's adapter to answer with, None the session's own and "" none.
    `crops` is into how many tiles at most an image is cut, None the model's own number: fewer show less of
    it, and are fewer tokens.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 50
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    logits_processor: LogitsProcessor | None = None
    seed: int | None = None
    system: str | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    json_schema: str | None = None
    regex: str | None = None
    grammar: str | None = None
    adapter: str | None = None
    crops: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise _wrong(f"max_tokens of at least 1, found {self.max_tokens}")
        if not 0 <= self.temperature <= 100:
            raise _wrong(f"a temperature from 0 to 100, found {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise _wrong(f"top_p above 0 and at most 1, found {self.top_p}")
        if self.top_k < 0:
            raise _wrong(f"top_k of at least 0, found {self.top_k}")
        if not 0 <= self.min_p <= 1:
            raise _wrong(f"min_p from 0 to 1, found {self.min_p}")
        if self.seed is not None and not 0 <= self.seed < 1 << 31:
            raise _wrong(f"a seed from 0 to {(1 << 31) - 1}, found {self.seed}")
        check_crops(self.crops)
        if "" in self.stop:
            raise _wrong("stop texts, found an empty one")
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_ALTERNATIVES:
            raise _wrong(f"logprobs from 0 to {MOST_ALTERNATIVES}, found {self.logprobs}")
        rules = [rules.name for rules in self._all_rules()]
        if len(rules) > 1:
            raise _wrong(f"one kind of rules for an answer, found {' and '.join(rules)}")
        # JSON has texts for keys. And a copy of its own, which nobody changes.
        biases = {int(token): float(bias) for token, bias in self.logit_bias.items()}
        object.__setattr__(self, "logit_bias", biases)
        self._check_penalties()

    def _check_penalties(self) -> None:
        """Raise UsageError for biases and penalties that make no sense."""
        if not LEAST_REPETITION_PENALTY <= self.repetition_penalty <= MOST_REPETITION_PENALTY:
            raise _wrong(
                f"a repetition_penalty from {LEAST_REPETITION_PENALTY} to {MOST_REPETITION_PENALTY}, found "
                f"{self.repetition_penalty}"
            )
        if not -2 <= self.frequency_penalty <= 2:
            raise _wrong(f"a frequency_penalty from -2 to 2, found {self.frequency_penalty}")
        if not -2 <= self.presence_penalty <= 2:
            raise _wrong(f"a presence_penalty from -2 to 2, found {self.presence_penalty}")
        for token, bias in self.logit_bias.items():
            if token < 0 or not -100 <= bias <= 100:
                raise _wrong(f"a logit_bias from -100 to 100 for a token's id, found {bias} for {token}")

    @property
    def rules(self) -> Rules | None:
        """What the answer is held to, if it is."""
        return next(self._all_rules(), None)

    def check_no_system(self) -> None:
        """Raise UsageError for a system message: that of a conversation is no option."""
        if self.system is not None:
            raise UsageError(
                "expected options without a system message, found one",
                hint="it is the first of the messages, or given to `chat`",
            )

    def _all_rules(self) -> Iterator[Rules]:
        if self.json_schema is not None:
            yield Rules("json_schema", self.json_schema)
        if self.regex is not None:
            yield Rules("regex", self.regex)
        if self.grammar is not None:
            yield Rules("grammar", self.grammar)


def _wrong(expected_and_found: str) -> UsageError:
    return UsageError(
        f"expected {expected_and_found}",
        hint=f"see docs/python-api.md, or `{edgephi_command('run', '--help')}`",
    )


GREEDY = Options()
