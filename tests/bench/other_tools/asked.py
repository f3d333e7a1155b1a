"""What every tool is asked, what it answers, and how far that is from the original."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Model = Callable[[Sequence[int]], Floats]
"""Logits [tokens, vocabulary] after each token of a text that begins with the first of them."""


@dataclass(frozen=True)
class Asked:
    """Texts whose logits are wanted, and prompts that are to be continued greedily up to one of `stops`.

    Of the logits those of the first `vocabulary` tokens are wanted.
    """

    texts: tuple[tuple[int, ...], ...]
    prompts: tuple[tuple[int, ...], ...] = ()
    stops: tuple[int, ...] = ()
    most_tokens: int = 48
    vocabulary: int = 1 << 20


@dataclass(frozen=True)
class Answers:
    """Logits of each text, and the tokens after each prompt, the stop token left out."""

    logits: tuple[Floats, ...]
    continued: tuple[tuple[int, ...], ...] = field(default=())


@dataclass(frozen=True)
class Distance:
    """From the original: the mean KL divergence in nats, and what is the same.

    `same_top` is the share of tokens after which the same one is the most likely.
    """

    divergence: float
    same_top: float
    same_texts: int


def answers_of(model: Model, asked: Asked) -> Answers:
    """What a model answers, computed anew for every token: it is a small one."""
    return Answers(
        tuple(model(text)[:, : asked.vocabulary].copy() for text in asked.texts),
        tuple(_continued(model, prompt, asked) for prompt in asked.prompts),
    )


def _continued(model: Model, prompt: Sequence[int], asked: Asked) -> tuple[int, ...]:
    tokens = list(prompt)
    while len(tokens) < len(prompt) + asked.most_tokens:
        token = int(model(tokens)[-1].argmax())
        if token in asked.stops:
            break
        tokens.append(token)
    return tuple(tokens[len(prompt) :])


def distance(original: Answers, found: Answers) -> Distance:
    """How far the second answers are from the first."""
    divergences, tops = [], []
    for one, other in zip(original.logits, found.logits, strict=True):
        p, q = (_log_shares(each) for each in (one, other))
        divergences.append((np.exp(p) * (p - q)).sum(axis=1))
        tops.append(one.argmax(axis=1) == other.argmax(axis=1))
    pairs = zip(original.continued, found.continued, strict=True)
    return Distance(
        float(np.concatenate(divergences).mean()),
        float(np.concatenate(tops).mean()),
        sum(one == other for one, other in pairs),
    )


def _log_shares(logits: Floats) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    shares: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return shares
