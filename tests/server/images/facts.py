"""How a model sees in these tests: as Phi-3.5-vision does."""

from edgephi.bundle.image_tokens import ImageFacts

FACTS = ImageFacts(
    336, 14, 4, 3072, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
)
