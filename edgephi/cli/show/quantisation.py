"""The errors of a bundle's tensors as people read them: the worst first."""

import textwrap
from collections.abc import Sequence
from typing import Literal

from edgephi.bundle.manifest import OWN_EXPORTER, Manifest
from edgephi.bundle.quantisation import QUANTISATION_NAME, Quantisation, QuantisedTensor
from edgephi.cli.show.table import table
from edgephi.commands import edgephi_command
from edgephi.errors import NotSupportedError

Order = Literal["output", "weighted", "plain"]

WORST = 20
"""So many tensors are shown when not all are asked for."""

_WIDTH = 80
_WORDS = (
    "share: of all weights. error: squared, of the weights, relative to them. weighted: each weight counted "
    "by the mean square of its input. output: not relative to anything, what one token finds as squared "
    "error in the matrix's output"
)
_MADE_UP_FOR = (
    "Codes that are calibrated make up for each other's errors, which these numbers do not see: they take "
    "inputs for independent of each other"
)
_NOT_MEASURED = "nobody measured the inputs of these matrices: method {method}"


def unknown_errors(manifest: Manifest) -> NotSupportedError:
    """That a bundle has no errors to show, why, and how to have one that has."""
    provenance = manifest.provenance
    if provenance.exporter == OWN_EXPORTER:
        return NotSupportedError(
            f"{manifest.name}: expected {QUANTISATION_NAME} among the files of its manifest, found none: the "
            f"edgephi {provenance.edgephi} that built it wrote none",
            hint="build it again: this edgephi writes that file, and none can be added to a bundle later",
        )
    if manifest.quant.method == "upstream":
        hint = "build it again without --exporter upstream: edgephi knows the errors of its own codes"
    else:
        build = edgephi_command("build", "MODEL", "--target", manifest.target.name, "-o", "DIR")
        hint = f"`{build}` makes one that has them, of the model's own checkpoint"
    return NotSupportedError(
        f"{manifest.name}: the errors of its tensors are not known: not edgephi chose their codes but "
        f"another tool ({provenance.exporter})",
        hint=hint,
    )


def tensors_table(
    quantisation: Quantisation, manifest: Manifest, *, order: Order | None, most: int | None
) -> str:
    """The `most` worst tensors, None for all, in at most 80 columns unless a name is longer than any of ours.

    `order` None is by the output's error where that was measured, and else by the plain one.
    """
    tensors = quantisation.tensors
    ranked = worst_first(tensors, order)[:most]
    total = sum(tensor.weights for tensor in tensors)
    rows = [
        (
            tensor.name,
            format_in_words(tensor),
            f"{tensor.weights / total:.1%}",
            percent(tensor.relative_squared_error),
            percent(tensor.weighted_relative_squared_error),
            amount(tensor.weighted_squared_error),
        )
        for tensor in ranked
    ]
    header = ("matrix", "format", "share", "error", "weighted", "output")
    lines = [f"{manifest.name}: {len(tensors)} matrices, by {manifest.quant.method}", ""]
    lines += [table(rows, header, right=range(2, len(header))), ""]
    if len(ranked) < len(tensors):
        lines.append(f"the worst {len(ranked)} of {len(tensors)}; --all shows the others")
    words = _WORDS if is_measured(tensors) else _NOT_MEASURED.format(method=manifest.quant.method)
    return "\n".join([*lines, *textwrap.wrap(" ".join([f"{words}.", *caveats(manifest)]), _WIDTH)])


def caveats(manifest: Manifest) -> list[str]:
    """What the errors of a bundle's method do not say, in sentences."""
    return [f"{_MADE_UP_FOR}."] if manifest.quant.method == "calibrated" else []


def worst_first(tensors: Sequence[QuantisedTensor], order: Order | None = None) -> list[QuantisedTensor]:
    """The tensors by one of their errors, largest first; those without it come last, by their plain one."""
    chosen = order or ("output" if is_measured(tensors) else "plain")

    def place(tensor: QuantisedTensor) -> tuple[float, float]:
        errors = {
            "output": tensor.weighted_squared_error,
            "weighted": tensor.weighted_relative_squared_error,
            "plain": tensor.relative_squared_error,
        }
        error = errors[chosen]
        return -1 if error is None else error, tensor.relative_squared_error

    return sorted(tensors, key=place, reverse=True)


def is_measured(tensors: Sequence[QuantisedTensor]) -> bool:
    """Whether anything is known of the tensors' inputs."""
    return any(tensor.weighted_squared_error is not None for tensor in tensors)


def format_in_words(tensor: QuantisedTensor) -> str:
    """How a tensor is stored: "int4 g32", "Q4_K"."""
    if tensor.scales == "superblocks":
        return f"Q{tensor.bits}_K"
    return f"int{tensor.bits} g{tensor.group_size}"


def percent(share: float | None) -> str:
    """A relative error with two digits, however small: 0.00871 -> "0.87%", 2.5e-6 -> "0.00025%"."""
    return "-" if share is None else f"{_digits(100 * share, 2)}%"


def amount(number: float | None) -> str:
    """A number of no unit with three digits: 548.0 -> "548", 5.21 -> "5.21"."""
    return "-" if number is None else _digits(number, 3)


def _digits(number: float, digits: int) -> str:
    if 10**digits <= number < 1e6:
        return f"{number:.0f}"
    return f"{number:#.{digits}g}".removesuffix(".") if number else "0"
