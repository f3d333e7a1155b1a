"""An agent of LangChain's with two tools, each called once: prints what came of it. Argument: the server."""

import json
import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal

from langchain.agents import create_agent  # type: ignore[import-not-found]
from langchain.agents.middleware import wrap_model_call  # type: ignore[import-not-found]
from langchain_core.messages import ToolMessage  # type: ignore[import-not-found]
from langchain_core.tools import tool  # type: ignore[import-not-found]
from langchain_openai import ChatOpenAI, OpenAI  # type: ignore[import-not-found]
from pydantic import BaseModel, Field

QUESTION = "turn on the kitchen light"
ORDER = ["light", "timer"]
called: list[list[Any]] = []


class Answer(BaseModel):
    """What an answer is parsed into."""

    room: Literal["kitchen", "bath"]


@tool  # type: ignore[untyped-decorator]
def light(room: Literal["kitchen", "bath"]) -> str:
    """Turn on the light in a room."""
    called.append(["light", room])
    return f"the light in {room} is on"


@tool  # type: ignore[untyped-decorator]
def timer(minutes: Annotated[int, Field(ge=1, le=60)]) -> str:
    """Set a timer."""
    called.append(["timer", minutes])
    return f"{minutes} minutes"


@wrap_model_call  # type: ignore[untyped-decorator]
def one_after_the_other(request: Any, handler: Callable[[Any], Any]) -> Any:
    """Have the model call each tool once, whatever the smallest of models would do by itself."""
    done = sum(isinstance(message, ToolMessage) for message in request.messages)
    return handler(request.override(tool_choice=ORDER[done] if done < len(ORDER) else "none"))


def main(url: str) -> dict[str, Any]:
    """Ask plainly, in pieces, for a schema, and as an agent."""
    common: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": "none", "model": "demo-cpu"}
    model = ChatOpenAI(**common, temperature=0, max_tokens=200)
    agent = create_agent(model, tools=[light, timer], middleware=[one_after_the_other])
    messages = agent.invoke({"messages": [{"role": "user", "content": QUESTION}]})["messages"]
    return {
        "text": model.invoke(QUESTION).content,
        "pieces": [chunk.content for chunk in model.stream(QUESTION)],
        "parsed": model.with_structured_output(Answer).invoke(QUESTION).room,
        "responses": ChatOpenAI(**common, use_responses_api=True).invoke(QUESTION).text,
        "completion": OpenAI(**common, temperature=0, max_tokens=8).invoke("turn on the"),
        "called": called,
        "messages": [message.type for message in messages],
        "last": messages[-1].content,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
