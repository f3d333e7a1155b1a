"""How far a calibration has come, in a folder beside the bundle: so it goes on there after an interruption.

Beside the codes of each matrix lies what goes into the layer that comes next, in the original network and
behind what is quantised; with these, and the codes of the layers before, all of the rest follows, to the last
bit. A name that ends in a layer's number is there when all before that layer is on the disk.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.roles import ModelTensor
from edgephi.errors import BadInputError, QualityGateError

Floats = NDArray[np.float32]

_FINGERPRINT = "fingerprint"
_ORIGINAL_BEFORE_LAYER = "original-before-layer-"
_BEFORE_LAYER = "before-layer-"


@contextlib.contextmanager
def kept_beside(destination: Path, *, wanted: bool) -> Iterator[Path]:
    """The folder for a calibration of the bundle at `destination`, which nobody else is building.

    It goes when the block ends, be it with a bundle or with one that is not good enough. When the block is
    interrupted or fails in another way, and some layers are done, it stays, and a note at the error says so.
    What an earlier build has left goes at once when no calibration is `wanted`.
    """
    folder = destination.absolute().parent / f".{destination.name}.calibrating"
    if not wanted:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    except (BadInputError, QualityGateError):  # the same again would end in the same way
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except BaseException as error:
        if layers := _layers_done(folder):
            error.add_note(
                f"{layers} finished layers are kept in {folder}: the same build goes on there; or remove it"
            )
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


class ProgressOnDisk:
    """The folder of one calibration; what another one has left in it goes.

    `fingerprint` tells one calibration from another. Raises OSError.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        mark = folder / _FINGERPRINT
        if not (mark.is_file() and mark.read_text(encoding="utf-8", errors="replace") == fingerprint):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            mark.write_text(fingerprint, encoding="utf-8")
        self.layers_done = _layers_done(folder)

    def file_of(self, tensor: ModelTensor) -> Path:
        """Where a matrix's codes lie."""
        layer = "" if tensor.layer is None else f"{tensor.layer}-"
        return self.folder / f"{layer}{tensor.role.name.lower().replace('_', '-')}.npy"

    def inputs_of(self, tensor: ModelTensor) -> Path:
        """Where the original inputs of a matrix wait, until those of the same one in the next layer do."""
        return self.folder / f"inputs-of-{tensor.role.name.lower().replace('_', '-')}"

    def save_original(self, layer: int, hidden: Floats) -> None:
        """Have the disk hold what goes into a layer of the original network, [tokens, hidden].

        That comes before what goes into the same layer behind what is quantised.
        """
        if layer > self.layers_done:
            self._write(_ORIGINAL_BEFORE_LAYER, layer, hidden)

    def save(self, layer: int, hidden: Floats) -> None:
        """Have the disk hold what goes into a layer, [tokens, hidden]; the codes before it are found."""
        if layer > self.layers_done:
            self._write(_BEFORE_LAYER, layer, hidden)
            for name in (_BEFORE_LAYER, _ORIGINAL_BEFORE_LAYER):
                (self.folder / f"{name}{self.layers_done}").unlink(missing_ok=True)
            self.layers_done = layer

    def hidden(self, width: int) -> tuple[Floats, Floats]:
        """What goes into the layer after those that are done, [tokens, width]: originally, and now."""
        names = (_ORIGINAL_BEFORE_LAYER, _BEFORE_LAYER)
        original, now = (
            np.fromfile(self.folder / f"{name}{self.layers_done}", np.float32).reshape(-1, width)
            for name in names
        )
        return original, now

    def _write(self, name: str, layer: int, hidden: Floats) -> None:
        unfinished = self.folder / "unfinished"
        with unfinished.open("wb") as file:
            file.write(np.ascontiguousarray(hidden).data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(self.folder / f"{name}{layer}")


def _layers_done(folder: Path) -> int:
    found = (int(file.name.removeprefix(_BEFORE_LAYER)) for file in folder.glob(f"{_BEFORE_LAYER}*"))
    return max(found, default=0)
