"""Which rows of a checkpoint's tensors a tensor of the model is made of."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Rows of one tensor of the checkpoint, and the rows of another tensor that they become, one for one.

    Both are ranges with a step of 1 or more: `Source("up", range(4), range(1, 8, 2))` puts a matrix of four
    rows into every other row of one with eight. The numbers of a vector are its rows, and the rows of a stack
    of matrices [count, rows, columns] are numbered through.
    """

    tensor: str
    rows: range
    into: range

    def within(self, start: int, stop: int) -> tuple[range, range]:
        """What of the two becomes rows `start` to `stop`; empty where none of it does."""
        first, end = (max(0, -(-(row - self.into.start) // self.into.step)) for row in (start, stop))
        return self.rows[first:end], self.into[first:end]
