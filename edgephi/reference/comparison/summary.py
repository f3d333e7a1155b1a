"""What the divergences after all tokens of a text come to: means, their standard errors, and quantiles.

A standard error is clustered by passage. The divergences of one passage are alike, because its subject, its
language and its form are: taken as independent, they would make an error look several times too small. It is
that of a ratio estimator under cluster sampling: W. G. Cochran, Sampling Techniques, 1977, section 9A.5.
"""

import numpy as np
from numpy.typing import NDArray

from edgephi.bundle.certificate import Divergence, PlainRounding, TextPart
from edgephi.reference.comparison.divergence import Doubles, TokenDivergences

_LARGEST_LOG_PERPLEXITY = 700.0  # nats; e^710 is no longer a float64, and JSON has no infinity
_SIGNIFICANT_DIGITS = 3  # sums depend on the order in which threads finish: fewer are the same each time

Passages = NDArray[np.int64]
"""Of each counted token, [tokens], the number of its passage, or any other number that tells them apart."""


def summary(found: TokenDivergences, passage: Passages) -> Divergence:
    """The divergence over all tokens, with a few digits."""
    median, p90, p99 = np.quantile(found.kl, (0.5, 0.9, 0.99))
    return Divergence(
        kl_mean=few_digits(found.kl.mean()),
        kl_standard_error=_few_digits_or_none(standard_error(found.kl, passage)),
        kl_median=few_digits(median),
        kl_p90=few_digits(p90),
        kl_p99=few_digits(p99),
        kl_max=few_digits(found.kl.max()),
        top1=round(float(found.same_top.mean()), 4),
        perplexity_from=few_digits(_perplexity(found.surprise_from)),
        perplexity_to=few_digits(_perplexity(found.surprise_to)),
    )


def text_part(found: TokenDivergences, tokens: NDArray[np.bool_]) -> TextPart:
    """The divergence over those `tokens` [tokens] that are true."""
    return TextPart(
        tokens=int(tokens.sum()),
        kl_mean=few_digits(found.kl[tokens].mean()),
        top1=round(float(found.same_top[tokens].mean()), 4),
    )


def gain_over(rounding: TokenDivergences, ours: TokenDivergences, passage: Passages) -> PlainRounding:
    """By how much `ours` loses less than `rounding`, on the same text.

    The error of such a paired difference is far smaller than that of either mean, because what is hard for
    one is hard for the other.
    """
    difference = rounding.kl - ours.kl
    return PlainRounding(
        kl_mean=few_digits(rounding.kl.mean()),
        gain=few_digits(difference.mean()),
        gain_standard_error=_few_digits_or_none(standard_error(difference, passage)),
    )


def standard_error(values: Doubles, passage: Passages) -> float | None:
    """The standard error of the mean of `values` [tokens], clustered by passage; None with a single one."""
    _, number = np.unique(passage, return_inverse=True)  # [tokens]
    passages = int(number.max()) + 1
    if passages < 2:
        return None
    # How far the sum of each passage is from what its length would make of the mean of all.
    residuals = np.bincount(number, values - values.mean(), minlength=passages)  # [passages]
    variance = passages / (passages - 1) * float(np.square(residuals).sum())
    return float(variance**0.5 / len(values))


def _perplexity(surprise: Doubles) -> float:
    """The exponential of the mean of surprises in nats, held below the largest float; NaN counts nothing."""
    return float(np.exp(min(float(np.nanmean(surprise)), _LARGEST_LOG_PERPLEXITY)))


def few_digits(number: float) -> float:
    """A number with as many digits as are the same each time."""
    return float(f"{number:.{_SIGNIFICANT_DIGITS}g}")


def _few_digits_or_none(number: float | None) -> float | None:
    return None if number is None else few_digits(number)
