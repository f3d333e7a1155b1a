"""Codes that were found before a matrix is written: in files whose rows are read and written in any order.

A file is a NumPy array (`.npy`) of records, one for each row of the matrix: its codes, two to a byte where
they have 4 bits, and all else that `Groups` has of a row. So each row lies at a known place, and whoever
found some writes them there.
"""

import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edgephi.quantize.groups import ErrorSums, Groups
from edgephi.quantize.nibbles import pack_nibbles, unpack_nibbles
from edgephi.quantize.scheme import Scheme

_NIBBLE_BITS = 4
_PACKED = "packed_codes"
_CODES = "codes"


@dataclass(frozen=True)
class FoundRows:
    """A matrix's codes in a file, from row `start` on."""

    file: Path
    start: int = 0

    def of_rows(self, start: int) -> "FoundRows":
        """The same from a later row on, counted from here."""
        return replace(self, start=self.start + start)

    def read(self, count: int) -> Groups:
        """The first `count` rows of these; no error is known of them. Raises OSError."""
        with self.file.open("rb") as file:
            npy.read_magic(file)
            _, _, record = npy.read_array_header_1_0(file)
            file.seek(self.start * record.itemsize, os.SEEK_CUR)
            rows = np.fromfile(file, record, count)
        if len(rows) < count:
            raise OSError(f"{self.file}: expected {count} rows from {self.start} on, found {len(rows)}")
        arrays: dict[str, Any] = {name: np.ascontiguousarray(rows[name]) for name in record.names or ()}
        if _PACKED in arrays:
            arrays[_CODES] = unpack_nibbles(arrays.pop(_PACKED))
        return Groups(**{"zero_points": None, "sums": ErrorSums()} | arrays)


class FoundFile:
    """The file of a matrix with `rows` rows while they are found; `write` may be called by several threads.

    It has its name from the start. Whether all of it was written, its owner must know.
    """

    def __init__(self, file: Path, rows: int, scheme: Scheme) -> None:
        self._rows = rows
        self._packed = scheme.bits <= _NIBBLE_BITS
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def write(self, start: int, groups: Groups) -> None:
        """Put rows from `start` on into their place."""
        arrays = self._arrays(groups)
        record = np.dtype([(name, array.dtype, array.shape[1:]) for name, array in arrays.items()])
        rows = np.empty(len(groups.codes), record)
        for name, array in arrays.items():
            rows[name] = array
        header = io.BytesIO()
        facts = {"descr": npy.dtype_to_descr(record), "fortran_order": False, "shape": (self._rows,)}
        npy.write_array_header_1_0(header, facts)
        self._write_at(0, header.getvalue())
        self._write_at(header.tell() + start * record.itemsize, rows.tobytes())

    def close(self) -> None:
        """Have the disk hold what was written."""
        try:
            os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)

    def _arrays(self, groups: Groups) -> dict[str, NDArray[Any]]:
        """All arrays of a block of rows, by their names in the file."""
        arrays = {name: value for name, value in vars(groups).items() if isinstance(value, np.ndarray)}
        if not self._packed:
            return arrays
        return {_PACKED: pack_nibbles(arrays.pop(_CODES)), **arrays}

    def _write_at(self, offset: int, data: bytes) -> None:
        left = memoryview(data)
        while left:
            written = os.pwrite(self._descriptor, left, offset)
            left, offset = left[written:], offset + written
