"""The words for a certificate's numbers."""

import pytest

from edgephi.bundle.certificate import QualityGate
from edgephi.bundle.quality import Bounds, export_bounds, provisional_scale

SCALES = [provisional_scale(parameters, size) for parameters in (135 << 20, 4 << 30) for size in (32, 128)]


@pytest.mark.parametrize(
    ("number", "word"),
    [(0, "excellent"), (1, "excellent"), (1.1, "good"), (2, "good"), (3, "noticeable"), (3.1, "bad")],
)
def test_a_bound_is_the_last_number_of_its_word(number: float, word: str) -> None:
    assert Bounds(1, 2, 3).word(number) == word
    assert Bounds(-1, -2, -3).word(-number) == word


def test_of_a_share_the_largest_is_the_best() -> None:
    assert [Bounds(0.95, 0.91, 0.85).word(share) for share in (1, 0.91, 0.9, 0.5)] == [
        "excellent",
        "good",
        "noticeable",
        "bad",
    ]


def test_what_is_not_changed_at_all_is_excellent_on_every_scale() -> None:
    for scale in SCALES:
        assert (scale.kl.word(0), scale.top1.word(1), scale.perplexity_ratio.word(1)) == ("excellent",) * 3


def test_a_small_model_and_coarse_groups_are_given_more_room() -> None:
    small, _, large, coarse = SCALES
    assert large.kl.noticeable < coarse.kl.noticeable
    assert large.kl.noticeable < small.kl.noticeable
    assert small.top1.noticeable < large.top1.noticeable


def test_an_export_error_is_measured_by_what_its_recipe_allows() -> None:
    bounds = export_bounds(QualityGate(export_error_kl=1e-3))
    assert [bounds.word(kl) for kl in (1e-4, 4e-4, 1e-3, 2e-3)] == ["excellent", "good", "noticeable", "bad"]
