"""The memory that a device needs to run a model, computed from shapes and what is known of its engine.

Measured against processes that run full-size models: `python -m tests.bench.plan_memory`.
"""

import math
from dataclasses import dataclass, replace

from edgephi.checkpoint.architecture import Architecture, MixtureOfExperts
from edgephi.checkpoint.images.image_encoder import ImageEncoder
from edgephi.checkpoint.roles import EMBEDDING, EXPERTS, ModelTensor
from edgephi.engines.facts.engine import Prefill
from edgephi.engines.facts.footprint import Footprint
from edgephi.quantize.scheme import SUPER_BLOCK, Scheme
from edgephi.quantize.tensor_plan import TensorPlans, quantised_tensors

_SCALE_BYTES = 2
_ROW_BYTES = 4  # of each number of a token of an image
# Numbers alive while one prompt token passes through a layer, as multiples of the feed-forward width (gate
# and up, their product, and the copies that operators make) and of the hidden one (the same of attention).
_FEED_FORWARD_COPIES = 6
_HIDDEN_COPIES = 12
# The same for each patch of a tile in an image encoder, whose scores of attention are all there at once.
_ENCODER_WIDTH_COPIES = 3
_ENCODER_HIDDEN_COPIES = 6


@dataclass(frozen=True)
class Memory:
    """Peak memory of a device at the full context, in bytes, by what it is for.

    `per_token` is the part of the total that each of `cached_tokens` takes: all of the context, or those that
    an engine keeps that forgets what has left the model's attention window.
    """

    weights: int
    kv_cache: int
    scratch: int
    per_token: int
    cached_tokens: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.scratch

    def with_weights(self, count: int) -> "Memory":
        """The same with so many bytes of weights more."""
        return replace(self, weights=self.weights + count)


def memory_at(
    context: int,
    architecture: Architecture,
    plans: TensorPlans,
    footprint: Footprint,
    prefill: Prefill,
    *,
    artifact_bytes: int,
) -> Memory:
    """What a device needs at a context of so many tokens, for an artifact of that size."""
    attention = architecture.attention
    head_numbers = 2 * attention.head_size  # of keys and values, for a token
    cached_numbers = architecture.layers * attention.kv_heads * head_numbers
    cache_per_token = round(cached_numbers * footprint.cache_bytes_per_number)
    score_copies = int(footprint.keeps_scores)
    if attention.sparsity is not None and context > attention.sparsity.dense_tokens:
        score_copies = max(score_copies, footprint.sparse_score_copies)
    unpacked_heads = attention.heads if footprint.unpacks_for_each_head else attention.kv_heads
    computed_per_token = footprint.activation_bytes * (
        attention.heads * prefill.tokens * score_copies
        + unpacked_heads * head_numbers * footprint.unpacked_layer_caches
    )
    if architecture.image_encoder is not None:  # tokens of images stay, for when they are computed again
        computed_per_token += _ROW_BYTES * architecture.hidden_size
    held = context
    if attention.window is not None and footprint.kept_past_window is not None:
        held = min(context, attention.window + footprint.kept_past_window)
    kv_cache = _rounded_up(held, footprint.cache_step) * cache_per_token
    computed = computed_per_token * context + prefill.tokens * _token_bytes(architecture, footprint)
    experts = isinstance(architecture.feed_forward, MixtureOfExperts)
    large = experts or attention.sparsity is not None or architecture.image_encoder is not None
    told = prefill.told_factors or (prefill.told_large and large)
    if attention.rotary.uses_long_factors(context) and not told:
        first = attention.rotary.original_context + 1
        scores = footprint.activation_bytes * attention.heads * first * footprint.keeps_scores
        computed = max(computed, first * (scores + _token_bytes(architecture, footprint)))
    working = max(kv_cache + computed, _packing_bytes(architecture, plans, footprint))
    engine = footprint.engine_bytes + footprint.token_bytes * architecture.vocabulary_size
    if architecture.image_encoder is not None and footprint.encoder_bytes:
        # Else it computes in the decoder's memory.
        engine += footprint.encoder_bytes + _tile_bytes(architecture.image_encoder, footprint)
    return Memory(
        weights=_weight_bytes(architecture, plans, footprint, artifact_bytes),
        kv_cache=kv_cache,
        scratch=engine + working - kv_cache,
        per_token=cache_per_token + computed_per_token,
        cached_tokens=held,
    )


def _weight_bytes(
    architecture: Architecture,
    plans: TensorPlans,
    footprint: Footprint,
    artifact_bytes: int,
) -> int:
    """What the weights of an artifact of that size take, when they are loaded."""
    groups = sum(
        math.prod(shape) // scheme.group_size for shape, scheme in _multiplied(architecture, plans).values()
    )
    size = round(artifact_bytes * footprint.weight_copies) + groups * footprint.packed_bytes_per_group
    zero_points = sum(
        math.prod(shape) // scheme.group_size
        for tensor, (shape, scheme) in _multiplied(architecture, plans).items()
        if tensor.role in EXPERTS and not scheme.symmetric
    )
    size += zero_points * footprint.expert_zero_point_bytes
    if architecture.tied_embeddings and footprint.separates_tied_head:
        size += _stored_bytes(*_multiplied(architecture, plans)[architecture.head])
    return size


def _token_bytes(architecture: Architecture, footprint: Footprint) -> int:
    """Logits and activations of one of the tokens that are computed at once."""
    numbers = footprint.logits_copies * architecture.vocabulary_size
    numbers += _FEED_FORWARD_COPIES * architecture.feed_forward.active_width
    numbers += _HIDDEN_COPIES * architecture.hidden_size
    return numbers * footprint.activation_bytes


def _tile_bytes(encoder: ImageEncoder, footprint: Footprint) -> int:
    """Activations of the tile that an image encoder computes; an engine keeps their memory after that."""
    tokens = encoder.patches + 1
    widths = _ENCODER_WIDTH_COPIES * encoder.width + _ENCODER_HIDDEN_COPIES * encoder.hidden_size
    return (tokens * widths + encoder.heads * tokens**2) * footprint.activation_bytes


def _packing_bytes(architecture: Architecture, plans: TensorPlans, footprint: Footprint) -> int:
    """What there is beside the weights while the largest matrix is packed, before there is any cache."""
    if not footprint.packs_beside:
        return 0
    multiplied = _multiplied(architecture, plans).values()
    return max(_stored_bytes(shape, scheme) for shape, scheme in multiplied if len(shape) == 2)


def _multiplied(
    architecture: Architecture, plans: TensorPlans
) -> dict[ModelTensor, tuple[tuple[int, ...], Scheme]]:
    """Shape and scheme of the matrices that something is multiplied by; an embedding's rows are looked up."""
    shapes = architecture.tensor_shapes()
    looked_up = None if architecture.tied_embeddings else EMBEDDING
    return {
        tensor: (shapes[tensor], scheme)
        for tensor, scheme in quantised_tensors(plans).items()
        if tensor != looked_up
    }


def _stored_bytes(shape: tuple[int, ...], scheme: Scheme) -> int:
    """Codes and scales of a matrix."""
    numbers = math.prod(shape)
    codes, groups = numbers * scheme.bits // 8, numbers // scheme.group_size
    if scheme.scales == "superblocks":
        # The groups' own scales have 8 bits, or 6 and as many for a minimum; each has its step.
        steps = numbers // SUPER_BLOCK * _SCALE_BYTES
        return codes + (groups + steps if scheme.symmetric else groups * 12 // 8 + 2 * steps)
    return codes + groups * _SCALE_BYTES * (2 if scheme.scales == "offset" else 1)


def idle_bytes(architecture: Architecture, plans: TensorPlans) -> int:
    """Codes and scales of the experts that a token does not have."""
    feed_forward = architecture.feed_forward
    if not isinstance(feed_forward, MixtureOfExperts):
        return 0
    stored = sum(
        _stored_bytes(*each)
        for tensor, each in _multiplied(architecture, plans).items()
        if tensor.role in EXPERTS
    )
    return stored * (feed_forward.experts - feed_forward.chosen) // feed_forward.experts


def _rounded_up(tokens: int, step: int) -> int:
    return -(-tokens // step) * step
