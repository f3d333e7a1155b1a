"""From the shape that a recipe declares to an architecture, and back, so that a plan needs no download."""

from edgephi.checkpoint.architecture import (
    Architecture,
    Attention,
    BlockSparsity,
    ClippedGeglu,
    FeedForward,
    GatedSilu,
    LayerNorm,
    MixtureOfExperts,
    RmsNorm,
)
from edgephi.checkpoint.images.image_encoder import ImageEncoder
from edgephi.checkpoint.rotary import RotaryEmbedding
from edgephi.declared.recipe import ImageShape, ModelType, Shape


def architecture_of(shape: Shape) -> Architecture:
    """Stands in for what `config.json` says where only sizes matter.

    Its LongRoPE factors are all 1, and its multipliers are those of the published model of this type.
    """
    factors = (1.0,) * (shape.rotary_size // 2) if shape.longrope else None
    plain = shape.model_type in ("phi3", "phi3_v")
    small = shape.model_type == "phi3small"
    head_size = shape.hidden_size // shape.heads
    return Architecture(
        model_type=shape.model_type,
        vocabulary_size=shape.vocabulary_size,
        hidden_size=shape.hidden_size,
        layers=shape.layers,
        norm=RmsNorm(epsilon=1e-5) if plain else LayerNorm(epsilon=1e-5),
        attention=Attention(
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_size=head_size,
            window=shape.sliding_window,
            rotary=RotaryEmbedding(
                size=shape.rotary_size,
                theta=10000.0,
                original_context=shape.original_context,
                context=shape.context,
                short_factor=factors,
                long_factor=factors,
            ),
            biases=not plain,
            scale=1 / head_size if small else None,
            sparsity=_sparsity_of(shape),
        ),
        feed_forward=_feed_forward_of(shape),
        context=shape.context,
        tied_embeddings=shape.tied_embeddings,
        bos_token_id=None,
        eos_token_ids=(),
        pad_token_id=None,
        head_bias=shape.model_type == "phimoe",
        embedding_multiplier=10.0 if small else 1.0,
        logits_multiplier=0.125 if small else 1.0,
        image_encoder=_image_encoder_of(shape),
    )


def _image_encoder_of(shape: Shape) -> ImageEncoder | None:
    """The encoder of a shape that has one; how colours are scaled matters to no plan."""
    images = shape.images
    if images is None:
        return None
    return ImageEncoder(
        tile=images.tile,
        patch=images.patch,
        crops=images.crops,
        hidden_size=images.hidden_size,
        layers=images.layers - 1,
        heads=images.heads,
        width=images.width,
        epsilon=1e-5,
        projected_size=shape.hidden_size,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


def _sparsity_of(shape: Shape) -> BlockSparsity | None:
    if not shape.dense_every:
        return None
    return BlockSparsity(
        block_size=shape.sparse_block,
        local_blocks=shape.local_blocks,
        stride=shape.vertical_stride,
        head_shift=max(1, shape.vertical_stride // shape.heads),
        dense_every=shape.dense_every,
    )


def _feed_forward_of(shape: Shape) -> FeedForward:
    match shape.model_type:
        case "phi3" | "phi3_v":
            return GatedSilu(width=shape.intermediate_size)
        case "phi3small":
            return ClippedGeglu(width=shape.intermediate_size, limit=20.0)
        case "phimoe":
            return MixtureOfExperts(
                width=shape.intermediate_size,
                experts=shape.experts,
                chosen=shape.experts_per_token,
                jitter=0.01,
            )


def shape_of(architecture: Architecture) -> Shape:
    """The shape that a recipe for this architecture declares."""
    attention, feed_forward = architecture.attention, architecture.feed_forward
    experts = feed_forward if isinstance(feed_forward, MixtureOfExperts) else None
    sparsity = attention.sparsity
    return Shape(
        vocabulary_size=architecture.vocabulary_size,
        hidden_size=architecture.hidden_size,
        intermediate_size=feed_forward.width,
        layers=architecture.layers,
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        rotary_size=attention.rotary.size,
        context=architecture.context,
        original_context=attention.rotary.original_context,
        longrope=attention.rotary.long_factor is not None,
        sliding_window=attention.window,
        tied_embeddings=architecture.tied_embeddings,
        model_type=_declared_type(architecture),
        experts=0 if experts is None else experts.experts,
        experts_per_token=0 if experts is None else experts.chosen,
        sparse_block=0 if sparsity is None else sparsity.block_size,
        local_blocks=0 if sparsity is None else sparsity.local_blocks,
        vertical_stride=0 if sparsity is None else sparsity.stride,
        dense_every=0 if sparsity is None else sparsity.dense_every,
        images=_images_of(architecture.image_encoder),
    )


def _images_of(encoder: ImageEncoder | None) -> ImageShape | None:
    if encoder is None:
        return None
    return ImageShape(
        crops=encoder.crops,
        tile=encoder.tile,
        patch=encoder.patch,
        hidden_size=encoder.hidden_size,
        layers=encoder.layers + 1,
        heads=encoder.heads,
        width=encoder.width,
    )


def _declared_type(architecture: Architecture) -> ModelType:
    """The type of models of these parts: a Llama of them is declared as a Phi-3."""
    match architecture.feed_forward:
        case GatedSilu():
            return "phi3" if architecture.image_encoder is None else "phi3_v"
        case ClippedGeglu():
            return "phi3small"
        case MixtureOfExperts():
            return "phimoe"
