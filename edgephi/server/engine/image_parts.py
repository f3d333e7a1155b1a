"""Messages with images: by their numbers on the way to the engine's process, looked at for its session."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgephi.bundle.image_tokens import ImageFacts
from edgephi.runtime.images.seen_image import SeenImage, see


@dataclass(frozen=True)
class Seen:
    """Messages as a session takes them, and how many tokens the images in them are."""

    messages: tuple[Mapping[str, object], ...]
    image_tokens: int


def seen(messages: Sequence[Mapping[str, object]], images: Sequence[bytes], facts: ImageFacts | None) -> Seen:
    """Look at the images that messages are about. Raises BadInputError for one that cannot be read."""
    if facts is None or not images:
        return Seen(tuple(messages), 0)
    looked_at: list[SeenImage] = []

    def of_part(part: Mapping[str, object]) -> Mapping[str, object]:
        number, crops = part.get("image"), part.get("crops")
        if not isinstance(number, int):
            return part
        # Always its bytes, never what a request says itself: a text would be the name of a file.
        image = see(
            images[number], facts, crops if isinstance(crops, int) else None, name=f"image {number + 1}"
        )
        looked_at.append(image)
        return {"type": "image", "image": image}

    found = []
    for message in messages:
        content = message["content"]
        parts = [of_part(part) for part in content] if isinstance(content, list) else content
        found.append({**message, "content": parts})
    return Seen(tuple(found), sum(image.tokens for image in looked_at))
