"""The operators that an image encoder needs besides a decoder's."""

from edgephi.checkpoint.roles import ModelTensor, bias_of
from edgephi.export.openvino.intermediate_representation import Value
from edgephi.export.openvino.operators import Operators

_QUICK = 1.702
_DECOMPRESSION = "decompression"
"""What OpenVINO calls the step from a stored float16 to float32."""


class ImageOperators(Operators):
    """Those of a decoder, and these. Matrices may be float16 where a decoder's are codes."""

    def weights(self, matrix: ModelTensor, label: str = "", *, part: int = 0, parts: int = 1) -> Value:
        """A matrix, f32 [rows, columns]: codes as a decoder has them, or float16 numbers."""
        tensor = self._tensors[matrix]
        if tensor.scheme is not None:
            return super().weights(matrix, label, part=part, parts=parts)
        label = label or tensor.name
        stored = self._graph.stored(f"{label}/numbers", "f16", tensor.shape, tensor.regions[0])
        (value,) = self._graph.add(
            "Convert",
            [stored],
            [("f32", tensor.shape)],
            name=label,
            data={"destination_type": "f32"},
            mark=_DECOMPRESSION,
        )
        return value

    def cut(self, pixels: Value, patches: ModelTensor) -> Value:
        """Each patch times a matrix: [B, 3, tile, tile] -> [B, hidden, tile / patch, tile / patch]."""
        filters = self.plain(patches)
        hidden, _, patch, _ = filters.shape
        batch, _, height, width = pixels.shape
        data = {"strides": f"{patch},{patch}", "dilations": "1,1", "pads_begin": "0,0", "pads_end": "0,0"}
        (value,) = self._graph.add(
            "Convolution",
            [pixels, filters],
            [("f32", (batch, hidden, height // patch, width // patch))],
            data={**data, "auto_pad": "explicit"},
        )
        return value

    def layer_norm(self, norm: ModelTensor, x: Value, epsilon: float) -> Value:
        """A layer norm over the last dimension, with its bias."""
        scaled = self.multiply(self.standardise(x, epsilon), self.plain(norm))
        return self.add(scaled, self.plain(bias_of(norm)))

    def attend(self, query: Value, keys: Value, values: Value) -> Value:
        """Attention in which everything sees everything: softmax(query · keysᵀ / sqrt(S)) · values."""
        return self._one(
            "ScaledDotProductAttention",
            [query, keys, values],
            query.element_type,
            query.shape,
            version="opset13",
            causal="false",
        )

    def quick_gelu(self, x: Value) -> Value:
        """X * sigmoid(1.702 x)."""
        return self._one("Swish", [x, self.literal(_QUICK, "f32")], x.element_type, x.shape, version="opset4")

    def gelu(self, x: Value) -> Value:
        """The exact GELU, with the error function."""
        return self._one("Gelu", [x], x.element_type, x.shape, version="opset7", approximation_mode="ERF")
