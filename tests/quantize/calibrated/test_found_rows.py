"""Codes that wait in a file: every row of every scheme comes back, whatever the order it was written in."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgephi.quantize.calibrated.found_rows import FoundFile, FoundRows
from edgephi.quantize.groups import Groups
from edgephi.quantize.quantizer import Quantizer
from edgephi.quantize.scheme import Scheme
from edgephi.quantize.tensor_plan import TensorPlan

SCHEMES = [
    Scheme(4, 32),
    Scheme(4, 64, symmetric=False),
    Scheme(4, 32, symmetric=False, scales="offset"),
    Scheme(4, 32, scales="multiples"),
    Scheme(5, 32, symmetric=False, scales="offset"),
    Scheme(4, 32, symmetric=False, scales="superblocks"),
    Scheme(5, 32, symmetric=False, scales="superblocks"),
    Scheme(6, 16, scales="superblocks"),
    Scheme(8, 32),
    Scheme(8, 32, scales="multiples"),
]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)
WEIGHTS = np.random.default_rng(0).standard_t(4, (30, 256)).astype(np.float32)


def written(file: Path, groups: Groups, scheme: Scheme) -> None:
    """Write the last ten rows first."""
    found = FoundFile(file, len(groups.codes), scheme)
    for start in (20, 0, 10):
        found.write(start, rows_of(groups, start, start + 10))
    found.close()


def rows_of(groups: Groups, start: int, stop: int) -> Groups:
    arrays: dict[str, Any] = {
        name: each for name, each in vars(groups).items() if isinstance(each, np.ndarray)
    }
    return replace(groups, **{name: each[start:stop] for name, each in arrays.items()})


def assert_same(found: Groups, expected: Groups) -> None:
    for name, array in vars(expected).items():
        if name != "sums":
            np.testing.assert_array_equal(getattr(found, name), array, err_msg=name)


@every_scheme
def test_rows_come_back_as_they_were(tmp_path: Path, scheme: Scheme) -> None:
    groups = Quantizer().quantize(WEIGHTS, TensorPlan(scheme, "weighted"))
    written(tmp_path / "codes.npy", groups, scheme)
    found = FoundRows(tmp_path / "codes.npy")
    assert_same(found.read(30), groups)
    assert_same(found.of_rows(7).of_rows(5).read(11), rows_of(groups, 12, 23))


def test_a_file_has_no_more_than_codes_and_scales(tmp_path: Path) -> None:
    scheme = Scheme(4, 32, symmetric=False)
    written(tmp_path / "codes.npy", Quantizer().quantize(WEIGHTS, TensorPlan(scheme)), scheme)
    stored = np.load(tmp_path / "codes.npy")
    assert stored.shape == (30,)
    assert stored.itemsize == 256 // 2 + 8 * (2 + 1)


@every_scheme
def test_a_plan_that_has_codes_takes_them(tmp_path: Path, scheme: Scheme) -> None:
    plan = TensorPlan(scheme, "rtn", importance=np.arange(1, 257, dtype=np.float32))
    groups = Quantizer().quantize(WEIGHTS, plan)
    written(tmp_path / "codes.npy", groups, scheme)
    plan = replace(plan, method="calibrated", found=FoundRows(tmp_path / "codes.npy"))
    taken = Quantizer().quantize(WEIGHTS[4:9], plan.of_rows(4, 9))
    assert_same(taken, rows_of(groups, 4, 9))
    again = Quantizer().quantize(WEIGHTS, plan.of_rows(0, 30))
    assert again.sums.squared_error == pytest.approx(groups.sums.squared_error, rel=1e-3)
    assert again.sums.weighted_squared_error == pytest.approx(groups.sums.weighted_squared_error, rel=1e-3)


def test_rows_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    scheme = Scheme(4, 32)
    written(tmp_path / "codes.npy", Quantizer().quantize(WEIGHTS, TensorPlan(scheme)), scheme)
    with pytest.raises(OSError, match="expected 3 rows from 28 on, found 2"):
        FoundRows(tmp_path / "codes.npy", 28).read(3)
