"""Messages of a conversation, as clients send them and as the chat template takes them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from edgephi.server.images.asked import AskedImages
from edgephi.server.images.parts import crops_of, joined, parts_or_text
from edgephi.server.openai.request import unsupported
from edgephi.server.refusal import Refusal

UNSUPPORTED_IN_MESSAGES = ("audio", "annotations")
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_TEXTS = ("text", "refusal")
_RESULT_ROLES = ("tool", "function")  # the second one is what the API called the first at its beginning


class ImageUrl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an image is: `data:image/…;base64,…` or, where the server fetches images, an address.

    With the `detail` "low" it becomes two tiles, one of them its thumbnail; else as many as the model has.
    """

    url: str
    detail: str | None = None


class ContentPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a message: text or, for a model that sees, an image."""

    type: str
    text: str | UnsetType = UNSET
    image_url: ImageUrl | str | UnsetType = UNSET
    input_audio: Any = UNSET
    file: Any = UNSET
    refusal: Any = UNSET


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message of a conversation. "developer" is what newer models call "system"."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    function_call: dict[str, Any] | None = None
    audio: Any = None
    annotations: list[Any] | None = None
    parsed: Any = None  # what a client made of `content` for itself


def plain_message(message: Message, position: int, images: AskedImages) -> dict[str, Any]:
    """A message as the engine's process takes it; `images` takes those that are in it. Raises Refusal."""
    place = f"messages[{position}]"
    for name in UNSUPPORTED_IN_MESSAGES:
        if getattr(message, name):
            raise unsupported(f"{name} is not supported by this server", f"{place}.{name}")
    content: str | list[dict[str, Any]] | None
    if message.role == "user" and isinstance(message.content, list):
        content = _parts(message.content, f"{place}.content", images)
    else:
        content = _text(message, place)
    if message.role in _RESULT_ROLES:
        named = {"tool_call_id": message.tool_call_id, "name": message.name}
        return {"role": "tool", "content": content, **{key: text for key, text in named.items() if text}}
    calls = _calls(message)
    if calls:
        if message.role != "assistant":
            raise Refusal(
                400,
                f"expected calls in a message of the assistant, found them in one of the {message.role}",
                param=f"{place}.tool_calls",
            )
        return {"role": message.role, "content": content, "tool_calls": calls}
    return {"role": "system" if message.role == "developer" else message.role, "content": content or ""}


def _text(message: Message, place: str) -> str | None:
    """The text of a message: None for one that has calls alone."""
    content = message.content
    if content is None:
        if message.role != "assistant":
            raise Refusal(400, "expected text, found no content", param=f"{place}.content")
        return message.refusal
    if isinstance(content, str):
        return content
    for part in content:
        if part.type not in _TEXTS or not isinstance(part.text, str):
            raise unsupported(
                f"expected parts of the type 'text' in a message of the {message.role}, found {part.type!r}",
                f"{place}.content",
            )
    return joined(part.text for part in content if isinstance(part.text, str))


def _parts(content: list[ContentPart], place: str, images: AskedImages) -> str | list[dict[str, Any]]:
    """What a user says: a text, or parts where there are images."""
    parts: list[dict[str, Any]] = []
    for number, part in enumerate(content):
        param = f"{place}[{number}]"
        if part.type == "image_url" and part.image_url is not UNSET:
            parts.append(_image(part.image_url, f"{param}.image_url", images))
        elif part.type in _TEXTS and isinstance(part.text, str):
            parts.append({"type": "text", "text": part.text})
        else:
            raise unsupported(
                f"expected parts of the type 'text' or 'image_url', and what they say, found {part.type!r}",
                param,
            )
    return parts_or_text(parts)


def _image(image: ImageUrl | str, param: str, images: AskedImages) -> dict[str, Any]:
    if isinstance(image, str):
        return images.at_url(image, param)
    return images.at_url(image.url, f"{param}.url", crops_of(image.detail, f"{param}.detail"))


def _calls(message: Message) -> list[dict[str, Any]]:
    """The calls in a message, in the newer words of the API."""
    if message.function_call:
        return [{"id": "", "type": "function", "function": message.function_call}]
    return list(message.tool_calls or ())
