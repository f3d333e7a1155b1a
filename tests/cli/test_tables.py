"""Sizes, tables and certificates as people read them."""

import dataclasses
from typing import Any

import pytest

from edgephi.build.verify import NOT_ON_PROVIDER
from edgephi.bundle.certificate import Certificate, Divergence, PlainRounding, QualityGate
from edgephi.bundle.manifest import Manifest
from edgephi.cli.show.certificate import certificate_details, certificate_table, report_line
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


def certified(manifest: Manifest | None = None, **changes: Any) -> str:
    """The table of the tiny bundle's certificate with `changes`, of lines that fit."""
    manifest = manifest or tiny_manifest()
    shown = certificate_table(dataclasses.replace(manifest.certificate, **changes), manifest)
    assert all(len(line) <= 80 for line in shown.splitlines())
    return shown


class TestCertificate:
    def test_every_number_has_a_limit_and_a_word(self) -> None:
        lines = [line.split() for line in certified().splitlines()]
        assert lines[0] == ["measured", "error", "limit"]
        assert lines[1] == ["export", "error,", "KL", "1.50e-05", "±", "2e-06", "0.02", "excellent"]
        assert lines[3] == ["end", "to", "end,", "KL", "1.50e-05", "±", "2e-06", "0.15*", "excellent"]
        assert lines[4] == ["end", "to", "end,", "top-1", "99.87%", "85%*", "excellent"]
        assert lines[5] == ["perplexity", "12.35", "→", "12.35", "1.15x*", "excellent"]
        assert lines[6][:2] == ["*", "provisional,"]

    def test_a_recipe_s_own_limit_is_shown_where_it_is_the_stricter_one(self) -> None:
        gate = QualityGate(
            end_to_end_kl=0.1, end_to_end_top1=0.9, quantisation_loss_kl=0.1, end_to_end_perplexity_ratio=1.1
        )
        shown = certified(gate=gate)
        assert "*" not in shown
        assert all(limit in shown for limit in (" 0.1 ", " 90% ", " 1.1x "))

    def test_the_word_is_that_of_the_model_s_size_and_groups(self) -> None:
        manifest = tiny_manifest()
        lossy = dataclasses.replace(
            _of(manifest), kl_mean=0.2, kl_standard_error=0.011, top1=0.8, perplexity_to=14.5
        )
        told = certified(end_to_end=lossy).splitlines()
        assert [line.split()[-1] for line in told[3:6]] == ["bad", "bad", "bad"]
        assert told[7].startswith("bad means: ")
        small = dataclasses.replace(
            manifest, model=dataclasses.replace(manifest.model, parameters=135_000_000)
        )
        told = certified(small, end_to_end=lossy).splitlines()
        assert [line.split()[-1] for line in told[3:6]] == ["noticeable", "noticeable", "noticeable"]
        coarse = dataclasses.replace(manifest, quant=dataclasses.replace(manifest.quant, group_size=128))
        assert certified(coarse, end_to_end=lossy).splitlines()[3].split()[-2:] == ["0.3*", "noticeable"]

    def test_says_whether_it_is_better_than_plain_rounding(self) -> None:
        assert "better than plain rounding, whose KL is 1.80e-05, by 3.0e-06 ± 1e-06" in certified()
        same = certified(plain_rounding=PlainRounding(1.5e-5, 1e-7, 1e-6))
        assert "no better than plain rounding, whose KL is 1.50e-05: the gain is 1.0e-07" in same
        single = certified(plain_rounding=PlainRounding(1.5e-5, -1e-6, None))
        assert "-1.0e-06 against plain rounding" in single
        assert "plain rounding" not in certified(plain_rounding=None)

    def test_another_exporter_s_has_end_to_end_only(self) -> None:
        shown = certified(export_error=None, quantisation_loss=None, plain_rounding=None)
        assert len(shown.splitlines()) == 7

    def test_notes_come_last(self) -> None:
        assert certified(note=NOT_ON_PROVIDER).endswith("\nnote: not run on its provider")

    def test_of_nothing(self) -> None:
        assert "--verify off" in certificate_table(Certificate("off"), tiny_manifest())

    def test_details_are_quantiles_and_a_row_for_each_domain_and_language(self) -> None:
        quantiles, parts = certificate_details(tiny_manifest().certificate).split("\n\n")
        assert quantiles.splitlines()[0].split() == ["KL", "median", "90%", "99%", "largest"]
        assert quantiles.splitlines()[3].split()[3:] == ["3.00e-06", "4.00e-05", "1.00e-04", "2.25e-04"]
        assert [line.split() for line in parts.splitlines()[1:]] == [
            ["domain", "chat", "1.00e-05", "99.90%", "880"],
            ["domain", "prose", "2.00e-05", "99.80%", "2,000"],
        ]

    def test_a_line_to_compare_with_others(self) -> None:
        manifest = tiny_manifest()
        assert report_line(manifest.certificate, manifest) == (
            "edgephi-quality model=tiny revision=0123456789ab method=scale-search group=32 bits=4.53 "
            "text=edgephi-eval(general)/full tokens=2880 kl=1.5e-05±2e-06 top1=99.87% perplexity=1.000x "
            "engine=onnxruntime-genai-0.18.0/cpu"
        )
        assert report_line(Certificate("off"), manifest) == ""


def _of(manifest: Manifest) -> Divergence:
    measured = manifest.certificate.end_to_end
    assert measured is not None
    return measured
