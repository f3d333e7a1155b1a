"""The image encoder of a Phi-3-vision, and the projection that turns what it sees into tokens of the decoder.

A CLIP vision transformer (arXiv:2103.00020): patches, a class token and positions, a norm, then layers of
attention and a feed-forward with quick GELU, x * sigmoid(1.702 x). What counts is the output of the layer
before the last, so the last one is not there. Squares of two by two patches are one vector then, and a
perceptron of two layers with an exact GELU between them projects each.

Source: `modeling_clip.py` of transformers, and the published `modeling_phi3_v.py`.
"""

import math
from dataclasses import dataclass

from edgephi.bundle.image_tokens import ImageFacts
from edgephi.checkpoint.roles import ModelTensor, Role

COLOURS = 3
MERGED_PATCHES = 4
"""Patches that are one token, two by two."""


@dataclass(frozen=True)
class ImageEncoder:
    """Encoder and projection: what they compute, and how images come to them.

    Tiles of `tile` pixels a side are cut into patches of `patch`. The `layers` are those that are computed,
    `hidden_size` wide, with feed-forwards of `width`; `projected_size` is the decoder's hidden size. See
    `ImageFacts` for `crops`, `mean` and `std`.
    """

    tile: int
    patch: int
    crops: int
    hidden_size: int
    layers: int
    heads: int
    width: int
    epsilon: float
    projected_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def facts(self) -> ImageFacts:
        """What a device must know of it to prepare an image."""
        return ImageFacts(self.tile, self.patch, self.crops, self.projected_size, self.mean, self.std)

    @property
    def patches(self) -> int:
        """Patches of a tile."""
        return (self.tile // self.patch) ** 2

    @property
    def merged_size(self) -> int:
        """Numbers of a token before it is projected."""
        return MERGED_PATCHES * self.hidden_size

    def tensor_shapes(self) -> dict[ModelTensor, tuple[int, ...]]:
        """Every tensor and its shape, in the order in which they are computed with."""
        hidden = self.hidden_size
        shapes: dict[ModelTensor, tuple[int, ...]] = {
            ModelTensor(Role.IMAGE_PATCHES): (hidden, COLOURS, self.patch, self.patch),
            ModelTensor(Role.IMAGE_CLASS): (hidden,),
            ModelTensor(Role.IMAGE_POSITIONS): (self.patches + 1, hidden),
            ModelTensor(Role.IMAGE_FIRST_NORM): (hidden,),
            ModelTensor(Role.IMAGE_FIRST_NORM_BIAS): (hidden,),
        }
        of_a_layer: dict[Role, tuple[int, ...]] = {
            Role.IMAGE_ATTENTION_NORM: (hidden,),
            Role.IMAGE_ATTENTION_NORM_BIAS: (hidden,),
            Role.IMAGE_QUERY_KEY_VALUE: (3 * hidden, hidden),  # rows: all queries, all keys, all values
            Role.IMAGE_QUERY_KEY_VALUE_BIAS: (3 * hidden,),
            Role.IMAGE_ATTENTION_OUTPUT: (hidden, hidden),
            Role.IMAGE_ATTENTION_OUTPUT_BIAS: (hidden,),
            Role.IMAGE_FEED_FORWARD_NORM: (hidden,),
            Role.IMAGE_FEED_FORWARD_NORM_BIAS: (hidden,),
            Role.IMAGE_UP: (self.width, hidden),
            Role.IMAGE_UP_BIAS: (self.width,),
            Role.IMAGE_DOWN: (hidden, self.width),
            Role.IMAGE_DOWN_BIAS: (hidden,),
        }
        for layer in range(self.layers):
            shapes.update((ModelTensor(role, layer), shape) for role, shape in of_a_layer.items())
        return shapes | {
            ModelTensor(Role.IMAGE_LINE_END): (1, 1, 1, self.merged_size),
            ModelTensor(Role.IMAGE_SEPARATOR): (1, 1, self.merged_size),
            ModelTensor(Role.IMAGE_PROJECTION_UP): (self.projected_size, self.merged_size),
            ModelTensor(Role.IMAGE_PROJECTION_UP_BIAS): (self.projected_size,),
            ModelTensor(Role.IMAGE_PROJECTION_DOWN): (self.projected_size, self.projected_size),
            ModelTensor(Role.IMAGE_PROJECTION_DOWN_BIAS): (self.projected_size,),
        }

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(math.prod(shape) for shape in self.tensor_shapes().values())


MATRICES = frozenset(
    {
        Role.IMAGE_QUERY_KEY_VALUE,
        Role.IMAGE_ATTENTION_OUTPUT,
        Role.IMAGE_UP,
        Role.IMAGE_DOWN,
        Role.IMAGE_PROJECTION_UP,
        Role.IMAGE_PROJECTION_DOWN,
    }
)
"""What of an encoder may be quantised; all else is small, or looked up."""
