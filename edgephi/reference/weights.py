"""The weights that a forward pass asks for, a few rows at a time."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.images.image_encoder import ImageEncoder
from edgephi.checkpoint.roles import ModelTensor

Floats = NDArray[np.float32]


class Weights(Protocol):
    """One version of a model's weights: those of the checkpoint, or what a quantiser made of them.

    `rows` returns rows start:stop of one of `Architecture.tensor_shapes` in float32: [stop - start, columns]
    of a matrix, [stop - start] of a vector; those of a stack of matrices are numbered through. Several
    threads call it at once.
    """

    @property
    def architecture(self) -> Architecture:
        """The shape of the model."""

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> Floats:
        """Rows start:stop of a tensor."""


class ImageWeights(Protocol):
    """One version of the weights of an image encoder and its projection.

    `rows` returns rows start:stop of one of `ImageEncoder.tensor_shapes` in float32; those of a tensor of
    more than two dimensions are numbered through. Several threads call it at once.
    """

    @property
    def architecture(self) -> ImageEncoder:
        """The shape of the encoder."""

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> Floats:
        """Rows start:stop of a tensor."""


class Shapes(Protocol):
    """A decoder, or an image encoder, as far as its tensors matter."""

    def tensor_shapes(self) -> dict[ModelTensor, tuple[int, ...]]:
        """Every tensor and its shape."""


class StoredTensors(Protocol):
    """Weights of either."""

    @property
    def architecture(self) -> Shapes:
        """What they are the weights of."""

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> Floats:
        """Rows start:stop of a tensor."""
