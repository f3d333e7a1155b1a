"""LlamaIndex's `OpenAILike`, as its documentation shows it. Argument: the server."""

import json
import sys
from typing import Any, Literal

from llama_index.core.llms import ChatMessage  # type: ignore[import-not-found]
from llama_index.core.tools import FunctionTool  # type: ignore[import-not-found]
from llama_index.llms.openai_like import OpenAILike  # type: ignore[import-not-found]

QUESTION = "turn on the kitchen light"


def light(room: Literal["kitchen", "bath"]) -> str:
    """Turn on the light in a room."""
    return f"the light in {room} is on"


def main(url: str) -> dict[str, Any]:
    """Ask as a chat, in pieces, for a call, and as a completion."""
    common: dict[str, Any] = {
        "model": "demo-cpu",
        "api_base": f"{url}/v1",
        "api_key": "none",
        "context_window": 2048,
        "temperature": 0,
    }
    chat = OpenAILike(**common, is_chat_model=True, is_function_calling_model=True)
    messages = [ChatMessage(role="user", content=QUESTION)]
    tool = FunctionTool.from_defaults(light)
    called = chat.chat_with_tools([tool], user_msg=QUESTION, tool_required=True)
    return {
        "text": chat.chat(messages).message.content,
        "pieces": [part.delta for part in chat.stream_chat(messages)],
        "calls": [[call.tool_name, call.tool_kwargs] for call in chat.get_tool_calls_from_response(called)],
        "completion": OpenAILike(**common, is_chat_model=False, max_tokens=8).complete("turn on the").text,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
