"""Images in messages of a conversation, whose content is then a list of parts, as OpenAI's API has them.

    {"type": "text", "text": "What does the gauge say?"}
    {"type": "image", "image": a path, bytes, an array or an image of Pillow}

Each part stands on a line of its own, as images do in the published prompt: `<|image_1|>`, the end of the
line, and then the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from edgephi.bundle.image_tokens import ImageFacts
from edgephi.chat.message_text import Own
from edgephi.errors import BadInputError, NotSupportedError
from edgephi.runtime.images.seen_image import ImageSource, SeenImage, see
from edgephi.runtime.text.image_marks import image_mark

_HINT = "a part is {'type': 'text', 'text': …} or {'type': 'image', 'image': a path, bytes, an array, …}"


def with_images(text: str, images: Sequence[ImageSource]) -> str | list[dict[str, Any]]:
    """The content of a message with images in front of its text.

    Raises BadInputError for what is no list of images: of one path, each letter would be an image, and of
    one array each of its lines.
    """
    if isinstance(images, str | bytes | bytearray | memoryview) or not isinstance(images, Sequence):
        raise BadInputError(f"expected a list of images, found {type(images).__name__}", hint="images=[one]")
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    return [*parts, {"type": "text", "text": text}] if parts else text


def seen_messages(
    messages: Sequence[Mapping[str, Any]], facts: ImageFacts | None, crops: int | None
) -> list[dict[str, Any]]:
    """Messages whose images were looked at, each a SeenImage; where there is none, a content is a text.

    Raises BadInputError for parts that are none, and what looking at an image raises; NotSupportedError for
    images where there are no `facts` of them.
    """
    count = 0
    found = []
    for message in messages:
        content = message.get("content")
        if not isinstance(content, list | tuple) or _is_text(content):
            found.append(dict(message))
            continue
        parts = []
        for part in content:
            kind, value = _checked(part)
            if kind == "image":
                if message.get("role") != "user":
                    raise BadInputError(
                        f"expected images in messages of the user, found one of the {message.get('role')}",
                        hint="put it into a message of the user",
                    )
                if facts is None:
                    raise NotSupportedError(
                        "expected texts for a model that reads nothing else, found an image",
                        hint="use a bundle of a model that sees, such as Phi-3.5-vision",
                    )
                count += 1
                value = see(value, facts, crops, name=f"image {count}")
            parts.append({"type": kind, kind: value})
        has_images = any(part["type"] == "image" for part in parts)
        found.append({**message, "content": parts if has_images else text_of(parts)})
    return found


def _is_text(content: Sequence[Any]) -> bool:
    """Whether that is a MessageText in parts, some of which are edgephi's own words."""
    return isinstance(content, tuple) and any(isinstance(part, Own) for part in content)


def look_at(images: Sequence[ImageSource], facts: ImageFacts | None, crops: int | None) -> list[SeenImage]:
    """Images of one message that were looked at. Raises as `seen_messages` does."""
    return images_of(seen_messages([{"role": "user", "content": with_images("", images)}], facts, crops))


def placed_messages(
    messages: Sequence[Mapping[str, Any]], place: Callable[[SeenImage], range]
) -> list[dict[str, Any]]:
    """Messages in which a mark with its ids, which `place` gives, stands for each image."""
    found = []
    for message in messages:
        content = message.get("content")
        if not isinstance(content, list):
            found.append(dict(message))
            continue
        pieces: list[str | Own] = []
        text = ""
        for number, part in enumerate(content):
            text += "\n" if number else ""
            if part["type"] == "image":
                # In one piece, so that no special token can be put together from several.
                pieces += [text, Own(image_mark(place(part["image"])))]
                text = ""
            else:
                text += part["text"]
        found.append({**message, "content": (*pieces, text)})
    return found


def images_of(messages: Iterable[Mapping[str, Any]]) -> list[SeenImage]:
    """The images in messages that were looked at, in order."""
    return [
        part["image"]
        for message in messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
        if part["type"] == "image"
    ]


def text_of(content: Any) -> Any:
    """The text of a message's content, without its images; what is no list stays as it is."""
    if not isinstance(content, list):
        return content
    # On lines of their own: the last word of one is none with the first of the next.
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _checked(part: Any) -> tuple[str, Any]:
    """The kind of a part, and what it has. Raises BadInputError."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return "text", part["text"]
    if kind == "image" and "image" in part:
        return "image", part["image"]
    found = f"the type {kind!r}" if isinstance(kind, str) else type(part).__name__
    raise BadInputError(f"expected parts of the type 'text' or 'image', found {found}", hint=_HINT)
