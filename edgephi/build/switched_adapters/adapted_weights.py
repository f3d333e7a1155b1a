"""A model's weights with an adapter, as an engine computes with them: the two are never added up there."""

from dataclasses import dataclass

from edgephi.checkpoint.adapter.low_rank_factors import AdapterFactors
from edgephi.checkpoint.architecture import Architecture
from edgephi.checkpoint.roles import ModelTensor
from edgephi.quantize.folding import Floats
from edgephi.reference.weights import Weights


@dataclass(frozen=True)
class AdaptedWeights:
    """The weights of a model with an adapter's products added to them."""

    weights: Weights
    factors: AdapterFactors

    @property
    def architecture(self) -> Architecture:
        """The shape of the model, which no adapter changes."""
        return self.weights.architecture

    def rows(self, tensor: ModelTensor, start: int, stop: int) -> Floats:
        """Rows start:stop of a tensor, float32 [stop - start, columns], or that part of a vector."""
        rows = self.weights.rows(tensor, start, stop)
        own = self.factors.get(tensor)
        return rows if own is None else rows + own.left[start:stop] @ own.right
