"""Functions in `edgephi chat`: those of a file, and how a call of one is shown."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgephi.chat.tools.function import functions
from edgephi.cli.text_file import read_text
from edgephi.errors import BadInputError

if TYPE_CHECKING:
    from edgephi.chat.tools.call_reader import ToolCall

_MOST_BYTES = 1 << 20
_HINT = (
    'the file has a list of {"type": "function", "function": {"name": …, "description": …, "parameters": …}}'
)


def read_tools(file: Path) -> Sequence[dict[str, Any]]:
    """The tools in a file: a list as OpenAI's API takes it, or an object whose `tools` are one.

    Functions alone, without what says that they are some, are taken too. Raises BadInputError where the file
    cannot be read, or something else is in it.
    """
    text = read_text(file, most_bytes=_MOST_BYTES)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise BadInputError(f"{file}: expected tools as JSON, found: {cause!s:.100}", hint=_HINT) from None
    listed = document.get("tools") if isinstance(document, dict) else document
    if not isinstance(listed, list) or not listed:
        raise BadInputError(f"{file}: expected a list of tools, found {document!r:.60}", hint=_HINT)
    tools = [
        {"type": "function", "function": tool} if isinstance(tool, dict) and "function" not in tool else tool
        for tool in listed
    ]
    try:
        functions(tools)
    except BadInputError as error:
        raise BadInputError(f"{file}: {error.message}", hint=error.hint) from None
    return tools


def call_text(call: "ToolCall") -> str:
    """A call as one line that a program can read too."""
    return json.dumps({"name": call.name, "arguments": json.loads(call.arguments)}, ensure_ascii=False)
