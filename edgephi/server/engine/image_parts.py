"""Messages with images: by their numbers on the way to the engine's process, looked at for its session."""

from collections.abc import Mapping, Sequence

from edgephi.bundle.image_tokens import ImageFacts
from edgephi.runtime.images.seen_image import see

Message = Mapping[str, object]


def seen(messages: Sequence[Message], images: Sequence[bytes], facts: ImageFacts | None) -> Sequence[Message]:
    """Messages as a session takes them. Raises BadInputError for an image that cannot be read."""
    if facts is None or not images:
        return messages

    def of_part(part: Mapping[str, object]) -> Mapping[str, object]:
        number, crops = part.get("image"), part.get("crops")
        if not isinstance(number, int):
            return part
        # Always its bytes, never what a request says itself: a text would be the name of a file.
        most = crops if isinstance(crops, int) else None
        return {"type": "image", "image": see(images[number], facts, most, name=f"image {number + 1}")}

    found = []
    for message in messages:
        content = message["content"]
        parts = [of_part(part) for part in content] if isinstance(content, list) else content
        found.append({**message, "content": parts})
    return found
