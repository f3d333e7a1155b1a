"""`preprocessor_config.json`: how the published processor of a model that sees prepares images."""

from dataclasses import replace
from pathlib import Path

from edgephi.bundle.image_tokens import LEAST_STD, MOST_CROPS
from edgephi.checkpoint.config_keys import ConfigKeys, read_json_object
from edgephi.checkpoint.images.image_encoder import COLOURS, ImageEncoder

PREPROCESSOR_FILE = "preprocessor_config.json"


def as_prepared(encoder: ImageEncoder, folder: Path, place: str) -> ImageEncoder:
    """The encoder with what the file in a checkpoint's folder says of its images; `place` names the folder.

    Raises BadCheckpointError when there is no such file, or it says what no image can be prepared by.
    """
    where = f"{place}: {PREPROCESSOR_FILE}"
    keys = ConfigKeys(read_json_object(folder / PREPROCESSOR_FILE, where=where), where)
    given = {name: keys.numbers(f"image_{name}", count=COLOURS) for name in ("mean", "std")}
    for name, values in given.items():
        if max(values) >= 1:
            keys.fail(f"image_{name}", "numbers below 1", max(values))
    if min(given["std"]) <= LEAST_STD:
        keys.fail("image_std", f"numbers above {LEAST_STD:g}", min(given["std"]))
    crops = keys.whole("num_crops", largest=MOST_CROPS)
    return replace(encoder, crops=crops, mean=given["mean"], std=given["std"])
