"""Images of a manifest that no picture could be prepared by are refused."""

import dataclasses

import pytest

from edgephi.bundle.image_tokens import LARGEST_TILE, LEAST_STD, ImageFacts, check_images
from edgephi.errors import BadBundleError

GOOD = ImageFacts(tile=336, patch=14, crops=16, hidden_size=3072, mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.mark.parametrize(
    "lie",
    [
        *({"tile": tile} for tile in (0, 14, 335, LARGEST_TILE + 28)),
        *({"patch": patch} for patch in (0, 13, 336, 337)),
        *({"crops": crops} for crops in (0, 65)),
        *({"hidden_size": size} for size in (0, 1 << 30)),
        *({"mean": mean} for mean in ((), (0.5,) * 2, (0.0,) * 3, (0.5, 0.5, 1.0))),
        *({"std": std} for std in ((0.25,) * 4, (0.25, 0.25, LEAST_STD), (1e-300,) * 3, (1.0,) * 3)),
    ],
    ids=str,
)
def test_what_no_image_can_be_prepared_by(lie: dict[str, object]) -> None:
    facts = dataclasses.replace(GOOD, **lie)  # type: ignore[arg-type]
    with pytest.raises(BadBundleError, match=r"^bundle\.json: model: images: "):
        check_images(facts, where="bundle.json", hint="build it again")


def test_the_published_ones_and_none() -> None:
    for facts in (GOOD, None):
        check_images(facts, where="bundle.json", hint="build it again")
