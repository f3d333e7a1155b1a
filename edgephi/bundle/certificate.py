"""The certificate of a bundle: what was measured before it was sealed, and what that was held against.

It is a part of `bundle.json`. All KL divergences are in nats. What its numbers mean: see
`edgephi.bundle.quality`.
"""

from dataclasses import dataclass, field
from typing import Literal

VerifyLevel = Literal["quick", "full", "off"]

GATE_TOKENS, GATE_PASSAGES = 2048, 16
"""How many tokens, of how many passages, a judgement on a model's quality takes at least."""


@dataclass(frozen=True)
class Divergence:
    """How far one distribution over next tokens is from another, over every counted token of the text.

    `kl_mean`, `kl_median`, `kl_p90`, `kl_p99` and `kl_max` are its mean, its quantiles and its largest value.
    `kl_standard_error` is that of the mean if the passages are taken for a sample of texts: tokens of one
    passage are not independent of each other. None with a single passage, which cannot tell.

    `top1` is the share of tokens after which the most likely next token is the same, `perplexity_from` and
    `perplexity_to` the perplexity of the text under each of the two.
    """

    kl_mean: float
    kl_standard_error: float | None
    kl_median: float
    kl_p90: float
    kl_p99: float
    kl_max: float
    top1: float
    perplexity_from: float
    perplexity_to: float

    @property
    def perplexity_ratio(self) -> float:
        """How many times as large the perplexity has become."""
        return self.perplexity_to / self.perplexity_from


@dataclass(frozen=True)
class TextPart:
    """The end-to-end divergence over the counted tokens of one domain, or of one language."""

    tokens: int
    kl_mean: float
    top1: float


@dataclass(frozen=True)
class PlainRounding:
    """What rounding to nearest would have lost on the same text, with the same bits and groups.

    `kl_mean` is its quantisation loss. `gain` is by how much the bundle's own is smaller, the mean of the
    differences at each token, and negative where it is larger; `gain_standard_error` as in `Divergence`.
    """

    kl_mean: float
    gain: float
    gain_standard_error: float | None


@dataclass(frozen=True)
class QualityGate:
    """Limits of the certificate's numbers; a build that is worse fails. KL in nats, means over the text.

    `end_to_end_perplexity_ratio`: how many times as large the perplexity may become; 0 does not ask.
    `beats_rounding`: whether a build fails that is worse than plain rounding, by more than the text's
    chance can explain. `answers`: whether one fails whose answer to the probe is empty or a repetition.
    """

    export_error_kl: float = 2e-2
    quantisation_loss_kl: float = 1.0
    end_to_end_kl: float = 1.0
    end_to_end_top1: float = 0.0
    end_to_end_perplexity_ratio: float = 0.0
    beats_rounding: bool = True
    answers: bool = True


@dataclass(frozen=True)
class ImageProof:
    """What was measured with pictures in the context, drawn by edgephi: `pictures` of them.

    `sizes` are their widths and heights in pixels, `image_tokens` what they take together. Error and loss of
    the encoder are sums of squared differences, over the sum of squares: of what the engine's encoder makes
    of the pictures from what the reference makes of them with the same weights, and of the latter from the
    original weights. The divergences are over `tokens` of text behind a picture, as those of a Certificate.
    """

    pictures: int
    sizes: tuple[str, ...]
    image_tokens: int
    tokens: int
    encoder_error: float
    encoder_loss: float
    export_error: Divergence
    quantisation_loss: Divergence
    end_to_end: Divergence


@dataclass(frozen=True)
class Certificate:
    """What was measured when the bundle was sealed. With level "off" there are no numbers.

    `export_error`: reference with the same quantised weights -> the engine; must be rounding noise.
    `quantisation_loss`: original weights -> quantised weights, both in the reference.
    `end_to_end`: original weights in the reference -> the engine. Only this one is there when another
    exporter wrote the artifact, whose codes we do not read.

    The text are `passages`, each read from an empty context; `tokens` of them were counted, which leaves out
    the first of each passage. `domains` and `languages` (ISO 639-1) are the same tokens by what they are.
    `plain_rounding` is None when it was not measured. `gate` is what the numbers were held against.

    `provider` computed the engine's numbers; when it is not the bundle's own, `note` says so. It also says
    what the text was too short for. `images` are about a model that sees.
    """

    level: VerifyLevel
    text: str = ""
    tokens: int = 0
    passages: int = 0
    reference: str = ""
    engine: str = ""
    provider: str = ""
    note: str = ""
    export_error: Divergence | None = None
    quantisation_loss: Divergence | None = None
    end_to_end: Divergence | None = None
    domains: dict[str, TextPart] = field(default_factory=dict)
    languages: dict[str, TextPart] = field(default_factory=dict)
    plain_rounding: PlainRounding | None = None
    gate: QualityGate | None = None
    images: ImageProof | None = None

    @property
    def can_judge(self) -> bool:
        """Whether it was measured on enough text for a judgement on the model's quality."""
        return self.tokens >= GATE_TOKENS and self.passages >= GATE_PASSAGES
