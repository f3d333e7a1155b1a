"""How `run` and `chat` choose tokens, beyond --temperature and --top-p, and where an answer stops."""

import functools
from collections.abc import Callable
from typing import Any

import click

_NAMES = (
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "stop",
)


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options, and a command that gets them as `sampling`: members of Options by their names."""

    @functools.wraps(command)
    def with_sampling(*arguments: Any, **values: Any) -> Any:
        return command(*arguments, sampling={name: values.pop(name) for name in _NAMES}, **values)

    for option in reversed(_OPTIONS):
        with_sampling = option(with_sampling)
    return with_sampling


def _biases(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[int, float]:
    """TOKEN=BIAS, as often as it was given. Raises click's error for anything else."""
    biases = {}
    for value in values:
        token, _, bias = value.partition("=")
        try:
            biases[int(token)] = float(bias)
        except ValueError:
            raise click.BadParameter(
                f"expected the id of a token and a number, as in 278=-5, found {value!r}"
            ) from None
    return biases


_OPTIONS = (
    click.option(
        "--top-k",
        type=click.IntRange(min=0),
        default=50,
        metavar="K",
        show_default=True,
        help="With a temperature: draw only from the K most likely tokens; 0: from all.",
    ),
    click.option(
        "--min-p",
        type=click.FloatRange(0, 1),
        default=0.0,
        metavar="P",
        show_default=True,
        help="With a temperature: draw no token that is less than P times as likely as the most likely one.",
    ),
    click.option(
        "--repetition-penalty",
        type=click.FloatRange(0.01, 100),
        default=1.0,
        metavar="R",
        show_default=True,
        help="Above 1, tokens that are in the prompt or the answer are less likely to come again.",
    ),
    click.option(
        "--frequency-penalty",
        type=click.FloatRange(-2, 2),
        default=0.0,
        metavar="F",
        show_default=True,
        help="Above 0, tokens are less likely the more often they are in the answer.",
    ),
    click.option(
        "--presence-penalty",
        type=click.FloatRange(-2, 2),
        default=0.0,
        metavar="F",
        show_default=True,
        help="Above 0, tokens that are in the answer are less likely to come again.",
    ),
    click.option(
        "--logit-bias",
        callback=_biases,
        multiple=True,
        metavar="TOKEN=BIAS",
        help="Add a number, -100 to 100, to the logit of the token with this id; may be given again.",
    ),
    click.option(
        "--stop",
        multiple=True,
        metavar="TEXT",
        help="End the answer before this text; may be given again.",
    ),
)
