"""Conversations in files: as `/save` of `edgephi chat` writes them, and as OpenAI's API takes them."""

import json
from pathlib import Path
from typing import Any

from edgephi.cli.text_file import read_text
from edgephi.errors import BadInputError, UsageError

_MOST_BYTES = 64 << 20
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
    return [{key: message[key] for key in _READ if key in message} for message in messages]


def _is_message(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        return False
    calls = value.get("tool_calls") or []
    has_text = isinstance(value.get("content"), str) or (bool(calls) and value.get("content") is None)
    return has_text and isinstance(calls, list)
