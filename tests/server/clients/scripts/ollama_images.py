"""Ollama's own client about an image, as its README shows it: prints what it was told as JSON.

Arguments: the server, an image file.
"""

import json
import sys
from pathlib import Path
from typing import Any

import ollama  # type: ignore[import-not-found]


def main(url: str, image: str) -> dict[str, Any]:
    """Ask about the file in each way that the client has."""
    client = ollama.Client(host=url)
    (model,) = client.list().models
    question: dict[str, Any] = {"role": "user", "content": "what is it?"}
    options = {"num_predict": 24}
    ways = {"path": image, "bytes": Path(image).read_bytes()}
    chats = {
        way: client.chat(model=model.model, messages=[question | {"images": [given]}], options=options)
        for way, given in ways.items()
    }
    generated = client.generate(
        model=model.model, prompt=question["content"], images=[ways["bytes"]], options=options
    )
    shown = client.show(model.model)
    refused = ""
    try:
        client.chat(model=model.model, messages=[question | {"images": [b"no image"]}], options=options)
    except ollama.ResponseError as error:
        refused = error.error
    return {
        **{way: chat.message.content for way, chat in chats.items()},
        "generated": generated.response,
        "tokens": generated.prompt_eval_count,
        "capabilities": shown.capabilities,
        "families": list(shown.details.families),
        "refused": refused,
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:3])))
