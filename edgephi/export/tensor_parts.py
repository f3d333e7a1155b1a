"""A tensor of the model that a file of an engine's holds as several: which rows of it each of them has.

Engines that know a mixture of experts want query, key and value apart, and gate and up of all experts as two
stacks. Our tensors are one each, whose rows a file then holds in the order of its parts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgephi.checkpoint.architecture import Attention, MixtureOfExperts
from edgephi.checkpoint.weights.source import Source
from edgephi.export.stream.packed_tensor import row_count
from edgephi.quantize.tensor_plan import TensorPlan


@dataclass(frozen=True)
class TensorParts:
    """The parts of a tensor by their names, with their shapes; they lie one after the other.

    `rows` are sources of the model's tensor, by the names of the parts.
    """

    shapes: Mapping[str, tuple[int, ...]]
    rows: tuple[Source, ...]

    def in_file_order(self, sources: Iterable[Source], plan: TensorPlan) -> tuple[Source, ...]:
        """Sources of the model's tensor as those of all its parts, whose rows are numbered through.

        Raises ValueError where these are in another order than ours and the plan is not for all rows alike.
        """
        if len(self.rows) == len(self.shapes):
            return tuple(sources)
        if plan.row_factors is not None or plan.found is not None:
            raise ValueError(f"{', '.join(self.shapes)}: expected a plan for all rows alike, found another")
        return tuple(self._moved(sources))

    def _moved(self, sources: Iterable[Source]) -> Iterator[Source]:
        firsts, first = {}, 0
        for name, shape in self.shapes.items():
            firsts[name] = first
            first += row_count(shape)
        for source in sources:
            for piece in self.rows:
                rows, into = source.within(piece.into.start, piece.into.stop)
                if rows:
                    by = firsts[piece.tensor] + piece.rows.start - piece.into.start
                    yield Source(source.tensor, rows, range(into.start + by, into.stop + by, into.step))


def whole(name: str, shape: tuple[int, ...]) -> TensorParts:
    """A tensor that is one in the file as well."""
    rows = range(row_count(shape))
    return TensorParts({name: shape}, (Source(name, rows, rows),))


def projections(attention: Attention, names: Sequence[str], columns: tuple[int, ...]) -> TensorParts:
    """Query, key and value by their names, each [rows, *columns]: a vector has none."""
    queries, keys = attention.heads * attention.head_size, attention.kv_heads * attention.head_size
    shapes, rows, first = {}, [], 0
    for name, count in zip(names, (queries, keys, keys), strict=True):
        shapes[name] = (count, *columns)
        rows.append(Source(name, range(count), range(first, first + count)))
        first += count
    return TensorParts(shapes, tuple(rows))


def gate_and_up(feed_forward: MixtureOfExperts, names: Sequence[str], columns: int) -> TensorParts:
    """Gate and up by their names, each [experts, width, columns].

    Ours has of each expert the rows of its gate, then those of its up.
    """
    experts, width = feed_forward.experts, feed_forward.width
    rows = tuple(
        Source(
            names[half],
            range(expert * width, (expert + 1) * width),
            range((2 * expert + half) * width, (2 * expert + half + 1) * width),
        )
        for expert in range(experts)
        for half in range(2)
    )
    return TensorParts(dict.fromkeys(names, (experts, width, columns)), rows)
