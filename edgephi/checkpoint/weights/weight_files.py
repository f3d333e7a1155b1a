"""Which files of a folder hold a model's weights: one, or those that an index names."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgephi.checkpoint.config_keys import read_json_object
from edgephi.checkpoint.weights.foreign import other_kind
from edgephi.errors import BadCheckpointError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_HINT = "the checkpoint is incomplete or mixed with another one: download it again"
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth")
_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state")
_NOT_ALONE = (*_NO_WEIGHTS, "consolidated")  # the last are said with the format that they are of


def weight_files(folder: Path) -> tuple[str, ...]:
    """The names of the safetensors files that hold the model in `folder`, sorted; each of them exists.

    Raises BadCheckpointError when one is missing or when there are only pickle files.
    """
    if (folder / SINGLE_FILE).is_file():
        return (SINGLE_FILE,)
    if (folder / INDEX_FILE).is_file():
        names = sorted(set(read_index(folder).values()))
        for name in names:
            if not (folder / name).is_file():
                raise BadCheckpointError(
                    f"{folder}: expected {len(names)} weight files, found no {name}", hint=_HINT
                )
        return tuple(names)
    raise no_safetensors(str(folder), (file.name for file in folder.iterdir()))


def no_safetensors(place: str, files: Iterable[str]) -> BadCheckpointError:
    """The error for a checkpoint whose `files` hold no weights that we read; `place` names it."""
    names = tuple(files)
    known = other_kind(place, names)
    pickles = sorted(
        name for name in names if name.endswith(_PICKLE_SUFFIXES) and not name.startswith(_NOT_ALONE)
    )
    if pickles:
        return BadCheckpointError(
            f"{place}: expected {SINGLE_FILE}, found {pickles[0]}",
            hint="edgephi needs safetensors; pickle files are never loaded, because they can run code",
        )
    return known or BadCheckpointError(
        f"{place}: expected {SINGLE_FILE} or {INDEX_FILE}, found neither", hint=_HINT
    )


def parse_index(index: Mapping[str, Any], *, where: str) -> dict[str, str]:
    """The `weight_map` of a parsed index: tensor -> file name, each a plain name that stays in the folder."""
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadCheckpointError(f"{where}: expected a weight_map, found none", hint=_HINT)
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise BadCheckpointError(
                f"{where}: {tensor}: expected a .safetensors file beside the index, found {name!r}",
                hint=_HINT,
            )
    return weight_map


def read_index(folder: Path) -> dict[str, str]:
    """The file of each tensor that the index in `folder` names. Raises BadCheckpointError."""
    where = str(folder / INDEX_FILE)
    return parse_index(read_json_object(folder / INDEX_FILE, where=where), where=where)
