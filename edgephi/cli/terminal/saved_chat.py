"""Conversations in files: as `/save` of `edgephi chat` writes them, and as OpenAI's API takes them.

An image is in the file itself, as a data URL.
"""

import base64
import binascii
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgephi.cli.text_file import read_text
from edgephi.errors import BadInputError, UsageError

if TYPE_CHECKING:
    from edgephi.runtime.images.seen_image import SeenImage

_MOST_BYTES = 64 << 20
_DATA_URL, _IN_BASE64 = "data:image/", ";base64,"
_READ = ("role", "content", "tool_calls", "tool_call_id")
_HINT = "`/save FILE` writes such a file, when FILE does not end in .md"


def read_messages(file: Path) -> list[dict[str, Any]]:
    """The messages in a file: a list of them, or an object whose `messages` are one.

    Raises UsageError where there is no such file, and BadInputError where something else is in it.
    """
    if not file.is_file():
        found = "a folder" if file.is_dir() else "none"
        raise UsageError(f"{file}: expected a file, found {found}", hint="/load FILE")
    text = read_text(file, most_bytes=_MOST_BYTES)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise BadInputError(
            f"{file}: expected a conversation as JSON, found something else", hint=_HINT
        ) from None
    messages = document.get("messages") if isinstance(document, dict) else document
    if not isinstance(messages, list) or not all(map(_is_message, messages)):
        raise BadInputError(
            f"{file}: expected messages with a role and a text each, found others", hint=_HINT
        )
    read = [{key: message[key] for key in _READ if key in message} for message in messages]
    for message in read:
        if isinstance(message.get("content"), list):
            message["content"] = [_read_part(part) for part in message["content"]]
    return read


def saved_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as a file has them: their images are data URLs, as OpenAI's API has them."""
    found = []
    for message in messages:
        content = message["content"]
        if isinstance(content, list):
            content = [_saved_part(part) for part in content]
        found.append({**message, "content": content})
    return found


def _saved_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    if part["type"] != "image":
        return part
    kind, data = _file_of(part["image"])
    url = f"{_DATA_URL}{kind}{_IN_BASE64}{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _file_of(image: "SeenImage") -> tuple[str, bytes]:
    """The kind of an image's file for a data URL, and its bytes; a PNG of one that was none."""
    from edgephi.runtime.images.file_kinds import kind_of

    if isinstance(image.data, bytes):
        return (kind_of(image.data) or "png").lower(), image.data
    file = io.BytesIO()
    image.data.save(file, "PNG")
    return "png", file.getvalue()


def _read_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part as a session takes it: a text, or the bytes of an image.

    What a file says itself is never taken for an image: a text would be the name of a file to read.
    """
    if part.get("type") == "text":
        return part
    url = part.get("image_url")
    url = url.get("url") if isinstance(url, Mapping) else url
    head, found, data = url.partition(_IN_BASE64) if isinstance(url, str) else ("", "", "")
    try:
        if not found or not head.startswith(_DATA_URL):
            raise ValueError
        return {"type": "image", "image": base64.b64decode(data, validate=True)}
    except (ValueError, binascii.Error):
        raise BadInputError(
            "expected texts and images as data:image/…;base64,… in a saved conversation, found another part",
            hint=_HINT,
        ) from None


def _is_message(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        return False
    calls = value.get("tool_calls") or []
    content = value.get("content")
    has_text = isinstance(content, str) or (bool(calls) and content is None)
    has_parts = isinstance(content, list) and all(isinstance(part, dict) for part in content)
    return (has_text or has_parts) and isinstance(calls, list)
