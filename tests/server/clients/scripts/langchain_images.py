"""LangChain's model about an image, in both of its forms: prints what it was told as JSON.

Arguments: the server, an image file.
"""

import base64
import json
import sys
from pathlib import Path
from typing import Any

from langchain_core.messages import HumanMessage  # type: ignore[import-not-found]
from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]


def main(url: str, image: str) -> dict[str, Any]:
    """Ask about the file in OpenAI's words and in LangChain's own."""
    text = {"type": "text", "text": "what is it?"}
    data = base64.b64encode(Path(image).read_bytes()).decode()
    forms = {
        "openai": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        "langchain": {"type": "image", "base64": data, "mime_type": "image/png"},
    }
    found: dict[str, Any] = {}
    for name, part in forms.items():
        for kind, responses in (("chat", False), ("responses", True)):
            model = ChatOpenAI(
                base_url=f"{url}/v1",
                api_key="none",
                model="tiny-vision-cpu",
                max_tokens=24,
                use_responses_api=responses,
            )
            found[f"{name}, {kind}"] = model.invoke([HumanMessage([part, text])]).text
    return found


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:3])))
