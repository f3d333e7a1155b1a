"""Sizes, tables and certificates as people read them."""

import dataclasses

import pytest

from edgephi.build.verify import NOT_ON_PROVIDER
from edgephi.bundle.manifest import Certificate
from edgephi.cli.show.certificate import certificate_table
from edgephi.cli.show.sizes import human_bytes
from edgephi.cli.show.table import table
from tests.bundle.tiny import tiny_manifest


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_995, "10.0 kB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (2_034_567_890, "2.03 GB"),
        (7_640_000_000_000, "7.64 TB"),
        (9_999_000_000_000_000, "9999 TB"),
    ],
)
def test_human_bytes(size: int, text: str) -> None:
    assert human_bytes(size) == text


def test_table_aligns_its_columns() -> None:
    rows = [("a", "1", "x"), ("bcd", "22", "")]
    assert table(rows, ("name", "n", "rest"), right=(1,)).splitlines() == [
        "name   n  rest",
        "a      1  x",
        "bcd   22",
    ]


def test_table_counts_columns_and_not_letters() -> None:
    assert table([("你好", "x"), ("e\u0301a", "y")]).splitlines() == ["你好  x", "e\u0301a    y"]


def test_certificate_table() -> None:
    lines = certificate_table(tiny_manifest().certificate).splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == ["export error", "quantisation loss", "end to end"]
    assert lines[1].split()[2:] == ["1.50e-05", "2.25e-04", "99.87%", "12.35", "→", "12.35"]
    assert lines[4] == "measured with onnxruntime-genai 0.18.0 on cpu"
    assert all(len(line) <= 80 for line in lines)


def test_a_certificate_that_another_provider_made_says_so() -> None:
    measured = dataclasses.replace(tiny_manifest().certificate, note=NOT_ON_PROVIDER)
    assert certificate_table(measured).endswith("on cpu: not run on its provider")


def test_certificate_of_nothing() -> None:
    assert "--verify off" in certificate_table(Certificate("off"))
