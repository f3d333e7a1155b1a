"""The page that `edgephi inspect --html` writes: the error of each matrix, by layer and in numbers."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from edgephi.bundle.manifest import Manifest
from edgephi.bundle.quantisation import Quantisation, QuantisedTensor
from edgephi.cli.pages.layer_plot import Line, Point, layer_plot, mark
from edgephi.cli.pages.page import escaped, figure, page, table
from edgephi.cli.show.quantisation import amount, caveats, format_in_words, is_measured, percent, worst_first
from edgephi.engines.facts.groups import groups_in_words

Number = Callable[[QuantisedTensor], float | None]

_NOTE = """
All errors are squared ones. Of the weights: how far they are from the original ones, relative to these.
Weighted: the same with each weight counted by the mean square of its input on the calibration text. In the
output: not relative to anything, what one token finds as error in what the matrix gives. Matrices that add to
the same sum, as attention outputs and downs do, can be compared by it: one that sticks out from its
neighbours costs more than they do, and a recipe can keep it at more bits by its name, under quant.keep.
"""
_NOT_MEASURED = """
All errors are squared ones: how far the weights are from the original ones, relative to these. What they do
to the output is not known, because the method looked at no inputs.
"""


def quantisation_page(quantisation: Quantisation, manifest: Manifest) -> str:
    """The page as HTML."""
    quant, tensors = manifest.quant, quantisation.tensors
    groups = groups_in_words(
        quant.group_size, symmetric=quant.symmetric, formats=quant.formats, engine=manifest.target.engine
    )
    measured = is_measured(tensors)
    notes = [_NOTE if measured else _NOT_MEASURED, *caveats(manifest)]
    return page(
        f"Quantisation of {manifest.name}",
        [
            f"{len(tensors)} matrices in {quant.bits_per_weight:.2f} bits per weight: int{quant.bits} in "
            f"{groups}, by {quant.method}",
            f"{manifest.model.id} at {manifest.model.revision}, release {manifest.sequence} of "
            f"{manifest.created}, edgephi {manifest.provenance.edgephi}",
        ],
        [
            "<h2>By layer</h2>",
            f'<div class="plots">{"".join(_plots(tensors, measured=measured))}</div>',
            "<h2>All matrices</h2>",
            _numbers(tensors, measured=measured),
            "<h2>How to read it</h2>",
            *(f'<p class="quiet">{escaped(note.strip())}</p>' for note in notes),
        ],
    )


def _plots(tensors: Sequence[QuantisedTensor], *, measured: bool) -> Iterator[str]:
    if measured:
        yield _plot("In the output", "squared error that one token finds, by layer", tensors, _output, "")
        yield _plot("Weighted", "relative squared error by each input, by layer", tensors, _weighted, "%")
    yield _plot("Of the weights", "relative squared error, by layer", tensors, _plain, "%")


def _plot(
    title: str, about: str, tensors: Sequence[QuantisedTensor], number: Number, unit: Literal["", "%"]
) -> str:
    """A line for each kind of matrix that layers have."""
    shown = percent if unit else amount
    lines = []
    for role in _roles(tensors):
        points = []
        for tensor in tensors:
            error = number(tensor)
            if tensor.role == role and tensor.layer is not None and error:  # a logarithm has no zero
                label = f"{tensor.name}, {format_in_words(tensor)}: {shown(error)}"
                points.append(Point(tensor.layer, error, label))
        lines.append(Line(role, tuple(sorted(points, key=lambda point: point.layer))))
    legend = [(mark(i), line.name) for i, line in enumerate(lines)]
    return figure(title, about, layer_plot(title, lines, unit=unit), legend)


def _roles(tensors: Sequence[QuantisedTensor]) -> list[str]:
    """The kinds of matrices that layers have, in the order in which a layer computes with them."""
    ranks = {"query, key and value": 0, "attention output": 1, "gate and up": 2, "down": 3}
    roles = {tensor.role for tensor in tensors if tensor.layer is not None}
    return sorted(roles, key=lambda role: (ranks.get(role, len(ranks)), role))


def _numbers(tensors: Sequence[QuantisedTensor], *, measured: bool) -> str:
    total = sum(tensor.weights for tensor in tensors)
    header = ["matrix", "format", "bits per weight", "share of weights", "of the weights", "weighted"]
    header += ["in the output"]
    rows = [
        [
            escaped(tensor.name),
            escaped(format_in_words(tensor)),
            f"{tensor.bits_per_weight:.2f}",
            f"{tensor.weights / total:.2%}",
            percent(tensor.relative_squared_error),
            percent(tensor.weighted_relative_squared_error),
            amount(tensor.weighted_squared_error),
        ]
        for tensor in worst_first(tensors)
    ]
    if not measured:
        for row in (header, *rows):
            del row[-2:]
    return table("The errors of every matrix", header, rows, text=(1,))


def _plain(tensor: QuantisedTensor) -> float | None:
    return tensor.relative_squared_error


def _weighted(tensor: QuantisedTensor) -> float | None:
    return tensor.weighted_relative_squared_error


def _output(tensor: QuantisedTensor) -> float | None:
    return tensor.weighted_squared_error
