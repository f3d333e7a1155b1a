"""Conversations on which chat templates are known to differ, and the schemas of tools."""

import json
from typing import Any

_SYSTEM = {"role": "system", "content": ' You are\n a "box" & <b>no</b> cloud. '}
_CALL = {"name": "light", "arguments": {"room": "Küche", "on": True}}

CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "a question": [{"role": "user", "content": "Hello"}],
    "white space": [{"role": "user", "content": "\n  Hello \t\n"}],
    "several turns": [
        {"role": "user", "content": "Where is it?"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nIn the hall. "},
        {"role": "user", "content": "Turn it öff 🎉"},
    ],
    "a system message": [_SYSTEM, {"role": "user", "content": "Hello"}],
    "an empty system message": [{"role": "system", "content": ""}, {"role": "user", "content": "Hello"}],
    "a system message and turns": [
        _SYSTEM,
        {"role": "user", "content": "{{ messages }} {% if %}"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "你好"},
    ],
    "two questions": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    "an answer at the end": [
        {"role": "user", "content": "Ankara'da\r\nhava?"},
        {"role": "assistant", "content": "गाँव \u0301 }},"},
    ],
}
TOOL_CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "tools in the system message": [
        {**_SYSTEM, "tools": json.dumps([_CALL], ensure_ascii=False)},
        {"role": "user", "content": "Hello"},
    ],
    "a call and its result": [
        {"role": "user", "content": "Is it dark?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "123456789", "type": "function", "function": _CALL}],
        },
        {"role": "tool", "content": '{"on": "nö"}', "tool_call_id": "123456789", "name": "light"},
    ],
    "calls, results and an answer": [
        _SYSTEM,
        {"role": "user", "content": "Light"},
        {
            "role": "assistant",
            "content": "One moment.",
            "tool_calls": [
                {"id": f"12345678{place}", "type": "function", "function": _CALL} for place in (1, 2)
            ],
        },
        {"role": "tool", "content": "on", "tool_call_id": "123456781"},
        {"role": "tool", "content": "off", "tool_call_id": "123456782"},
        {"role": "assistant", "content": "<think>both</think>One is on."},
        {"role": "user", "content": "Thank you"},
    ],
}
"""As messages of OpenAI's API write them, and as Phi-4-mini's template reads them."""

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Würde <b>it</b> & 'him'",
            "parameters": {
                "type": "object",
                "properties": {"room": {"type": "string"}},
                "required": ["room"],
            },
        },
    }
    for name in ("light", "heating", "door")
]
