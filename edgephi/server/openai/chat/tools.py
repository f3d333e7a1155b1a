"""Tools in a chat: the members of a request that say what may be called, also in the API's older words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgephi.chat.tools.function import calling
from edgephi.errors import BadInputError
from edgephi.runtime.text.rules import Rules
from edgephi.runtime.tools.call_grammar import trial_grammar
from edgephi.server.engine.messages import Ask
from edgephi.server.openai.response_format import text_of_schema
from edgephi.server.refusal import Refusal


@dataclass(frozen=True)
class AskedTools:
    """What the engine is told of tools: see `Session.answer`."""

    tools: tuple[dict[str, Any], ...] = ()
    choice: Any = None
    parallel: bool = True

    def check(self) -> None:
        """Raise Refusal for tools or a choice that are none."""
        for place, tool in enumerate(self.tools):
            text_of_schema(tool, f"tools[{place}]")
        try:
            calling(self.tools, self.choice)
        except BadInputError as error:
            param = error.message.partition(":")[0] if error.message.startswith("tools[") else "tool_choice"
            raise Refusal(400, f"{error.message} ({error.hint})", param=param) from None


def asked_tools(tools: Sequence[dict[str, Any]] | None, choice: Any, *, parallel: bool | None) -> AskedTools:
    """The members `tools`, `tool_choice` and `parallel_tool_calls`, checked. Raises Refusal."""
    asked = AskedTools(tuple(tools or ()), choice, parallel is not False)
    asked.check()
    return asked


def asked_functions(functions: Sequence[dict[str, Any]], choice: Any) -> AskedTools:
    """`functions` and `function_call`, as the API had them first: one call at most. Raises Refusal."""
    if isinstance(choice, dict):  # {"name": …}
        choice = {"type": "function", "function": choice}
    tools = [{"type": "function", "function": function} for function in functions]
    return asked_tools(tools, choice, parallel=False)


def trial_rules(ask: Ask) -> Rules | None:
    """Rules that are as hard to follow as those of an answer; None where it has none."""
    may_call = calling(ask.tools, ask.tool_choice, parallel=ask.parallel_tool_calls)
    if not may_call.may_come:
        return ask.options.rules
    return trial_grammar(may_call, ask.options.json_schema)
