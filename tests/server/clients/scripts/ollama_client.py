"""Ollama's own client, as its README uses it: prints what it was told as JSON. Argument: the server."""

import asyncio
import json
import sys
from typing import Any

import ollama  # type: ignore[import-not-found]

QUESTION = [{"role": "user", "content": "turn on the kitchen light"}]
SCHEMA = {
    "type": "object",
    "properties": {"room": {"enum": ["kitchen", "bath"]}},
    "required": ["room"],
    "additionalProperties": False,
}


def light_on(room: str) -> str:
    """Turn on the light.

    Args:
        room: where

    """
    return f"the light in {room} is on"


def main(url: str) -> dict[str, Any]:
    """Ask everything once."""
    client = ollama.Client(host=url)
    (model,) = client.list().models
    name = model.model
    chat = client.chat(model=name, messages=QUESTION, options={"temperature": 0, "num_ctx": 512})
    stream = list(client.chat(model=name, messages=QUESTION, stream=True, keep_alive="5m"))
    called = client.chat(model=name, messages=QUESTION, tools=[light_on], options={"num_predict": 60})
    answered = client.chat(
        model=name,
        messages=[*QUESTION, called.message, {"role": "tool", "tool_name": "light_on", "content": "done"}],
    )
    formatted = client.chat(model=name, messages=QUESTION, format=SCHEMA)
    missing: list[Any] = []
    try:
        client.chat(model="llama3", messages=QUESTION)
    except ollama.ResponseError as error:
        missing = [error.status_code, error.error]
    return {
        "model": name,
        "size": int(model.size),
        "loaded": [each.model for each in client.ps().models],
        "capabilities": client.show(name).capabilities,
        "chat": chat.message.content,
        "reason": chat.done_reason,
        "stream": [part.message.content for part in stream],
        "generated": client.generate(model=name, prompt=QUESTION[0]["content"]).response,
        "calls": [
            [call.function.name, dict(call.function.arguments)] for call in called.message.tool_calls or ()
        ],
        "answered": answered.done,
        "formatted": json.loads(formatted.message.content),
        "missing": missing,
        "asynchronous": asyncio.run(streamed(url, name)),
    }


async def streamed(url: str, name: str) -> str:
    """The same as Home Assistant asks for it."""
    client = ollama.AsyncClient(host=url)
    parts = await client.chat(
        model=name,
        messages=[ollama.Message(**QUESTION[0])],
        tools=None,
        stream=True,
        keep_alive=-1,
        options={"num_ctx": 8192},
        think=False,
        format=None,
    )
    return "".join([part["message"]["content"] async for part in parts])


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
