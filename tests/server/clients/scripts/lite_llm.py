"""LiteLLM over both APIs that a server speaks. Argument: the server."""

import json
import sys
from typing import Any

import litellm  # type: ignore[import-not-found]

QUESTION = [{"role": "user", "content": "turn on the kitchen light"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "light",
        "parameters": {
            "type": "object",
            "properties": {"room": {"enum": ["kitchen", "bath"]}},
            "required": ["room"],
            "additionalProperties": False,
        },
    },
}


def main(url: str) -> dict[str, Any]:
    """Ask over OpenAI's API and over Ollama's."""
    ours: dict[str, Any] = {"model": "openai/demo-cpu", "api_base": f"{url}/v1", "api_key": "none"}
    whole = litellm.completion(**ours, messages=QUESTION)
    called = litellm.completion(
        **ours, messages=QUESTION, tools=[TOOL], tool_choice="required", max_tokens=99
    )
    calls = called.choices[0].message.tool_calls
    ollama = litellm.completion(model="ollama_chat/demo-cpu", api_base=url, messages=QUESTION, temperature=0)
    return {
        "text": whole.choices[0].message.content,
        "tokens": whole.usage.total_tokens,
        "pieces": [
            part.choices[0].delta.content or ""
            for part in litellm.completion(**ours, messages=QUESTION, stream=True)
        ],
        "calls": [[call.function.name, json.loads(call.function.arguments)] for call in calls],
        "ollama": ollama.choices[0].message.content,
    }


if __name__ == "__main__":
    litellm.suppress_debug_info = True
    print(json.dumps(main(sys.argv[1])))
