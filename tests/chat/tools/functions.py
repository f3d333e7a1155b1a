"""Functions that the tests have called, and the calls of two of them."""

from typing import Any

LIGHT: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "light",
        "description": "Switch a light",
        "parameters": {
            "type": "object",
            "properties": {
                "room": {"enum": ["kitchen", "bath", "Küche"]},
                "on": {"type": "boolean"},
                "level": {"type": "integer", "minimum": 0, "maximum": 100},
            },
            "required": ["room", "on"],
        },
    },
}
LIGHTS: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "lights",
        "description": "Switch several lights",
        "parameters": {
            "type": "object",
            "properties": {
                "rooms": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 3},
                "how": {
                    "type": "object",
                    "properties": {"on": {"type": "boolean"}, "note": {"type": "string", "maxLength": 9}},
                    "required": ["on"],
                },
            },
            "required": ["rooms", "how"],
        },
    },
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "get_time"}}
TOOLS = [LIGHT, LIGHTS, TIME]
