"""One loaded bundle that answers prompts, and the numbers of each answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgephi.errors import EdgephiError, PastContextError, UsageError
from edgephi.manifest import Manifest
from edgephi.runtime.engines import Engine, open_engine

DEFAULT_MAX_TOKENS = 512

StopReason = Literal["stop", "length", "context"]


@dataclass(frozen=True)
class Options:
    """How one prompt is answered. Raises UsageError when a value makes no sense.

    `max_tokens` None is 512 or what the context leaves, whichever is less. `temperature` 0 always takes
    the most likely token; above it, tokens are drawn from the `top_k` most likely ones (0: from all, slow
    on small machines), of which only those that make up `top_p` of the probability. The same `seed` draws
    the same tokens again.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 50
    seed: int | None = None
    system: str | None = None

    def __post_init__(self) -> None:
        hint = "see `edgephi run --help`"
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


GREEDY = Options()


@dataclass(frozen=True)
class Generation:
    """A finished answer. Times in seconds, speeds in tokens per second.

    `stop_reason`: "stop" at a stop token, "length" after `max_tokens`, "context" when the bundle's context
    is full. `generated_tokens` does not count the stop token. `first_token_seconds` runs from the prompt's
    text to the first token, tokenisation and prefill included; loading the model does not count. A speed
    that cannot be told from a single token is 0.
    """

    text: str
    stop_reason: StopReason
    prompt_tokens: int
    generated_tokens: int
    first_token_seconds: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float


class Answer(Iterator[str]):
    """Iterate to get the text in pieces as the model writes it; `generation` has the rest, after the end."""

    def __init__(self, pieces: Iterator[str], numbers: list[Generation]) -> None:
        self._pieces = pieces
        self._numbers = numbers

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def generation(self) -> Generation:
        """The whole answer and its numbers; only after the last piece."""
        if not self._numbers:
            raise EdgephiError("the answer is not finished yet", hint="take all of its pieces first")
        return self._numbers[0]


class Session:
    """A bundle with its engine loaded. One prompt at a time."""

    def __init__(
        self, bundle: Path, manifest: Manifest, *, context: int | None = None, provider: str | None = None
    ) -> None:
        start = time.perf_counter()
        self.manifest = manifest
        self.context = context or manifest.limits.context
        self.engine: Engine = open_engine(bundle, manifest, context=self.context, provider=provider)
        self.load_seconds = time.perf_counter() - start

    def render(self, prompt: str, system: str | None = None) -> str:
        """The text that the model reads for `prompt`, special tokens included."""
        messages = [{"role": "system", "content": system}] if system else []
        return self.engine.render_chat([*messages, {"role": "user", "content": prompt}])

    def generate(self, prompt: str, options: Options = GREEDY) -> Generation:
        """The whole answer to `prompt`. Raises as `stream` does."""
        answer = self.stream(prompt, options)
        for _ in answer:
            pass
        return answer.generation

    def stream(self, prompt: str, options: Options = GREEDY) -> Answer:
        """The answer to `prompt`, piece by piece. A stop token is never part of it.

        Raises PastContextError, before any computation, when the prompt leaves no room for an answer.
        """
        start = time.perf_counter()
        token_ids = self.engine.encode(self.render(prompt, options.system))
        context = self.context
        if len(token_ids) >= context:
            raise PastContextError(
                f"the prompt has {len(token_ids)} tokens, the context is {context} tokens, "
                "prompt and answer together",
                hint="shorten the prompt, or build the bundle for a target with a larger context",
            )
        # The engine allocates its KV cache for this length, so no more than the answer may need.
        length = min(context, len(token_ids) + (options.max_tokens or DEFAULT_MAX_TOKENS))
        numbers: list[Generation] = []
        return Answer(self._pieces(token_ids, length, options, start, numbers), numbers)

    def _pieces(
        self, prompt: list[int], length: int, options: Options, start: float, numbers: list[Generation]
    ) -> Iterator[str]:
        """Yield the answer's text, then leave its numbers in `numbers`."""
        stream = self.engine.decode_stream(prompt[-1])
        pieces: list[str] = []
        stopped = False
        generated = steps = 0
        prefill_start = first = last = time.perf_counter()
        for token in self.engine.generate(
            prompt,
            length=length,
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            seed=options.seed,
        ):
            last = time.perf_counter()
            steps += 1
            if steps == 1:
                first = last
            if token in self.manifest.chat.stop_token_ids:
                stopped = True
                break
            generated += 1
            piece = stream.decode(token)
            if piece:
                pieces.append(piece)
                yield piece
        stop_reason: StopReason = "length"
        # The engine knows the stop tokens too; it never ends early for another reason.
        if stopped or len(prompt) + steps < length:
            stop_reason = "stop"
        elif length < len(prompt) + (options.max_tokens or DEFAULT_MAX_TOKENS):
            stop_reason = "context"
        numbers.append(
            Generation(
                text="".join(pieces),
                stop_reason=stop_reason,
                prompt_tokens=len(prompt),
                generated_tokens=generated,
                first_token_seconds=first - start,
                prefill_tokens_per_second=_per_second(len(prompt), first - prefill_start),
                decode_tokens_per_second=_per_second(steps - 1, last - first),
            )
        )


def _per_second(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
