"""Conversations with functions in them, as the template of a model takes them.

Where the template knows functions and calls, it gets them. Else the functions are described in the system
message, calls are written out in the form that is told there, and results come as messages of the user.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgephi.chat.message_text import MessageText, Own
from edgephi.chat.tools.call_form import CallForm, parsed_arguments
from edgephi.chat.tools.function import Function
from edgephi.errors import BadInputError

_BEFORE_FUNCTIONS = (
    "You can call functions. These are the functions, a JSON schema each:\n<tools>\n"  # of Hermes and Qwen
)
_AFTER_FUNCTIONS = (
    "\n</tools>\nTo call one, answer with its name and arguments, and nothing else:\n{example}\n"
    "The result of a call comes in <tool_response></tool_response>. Where no function helps, answer in words."
)
_OPEN_RESULT, _CLOSE_RESULT = "<tool_response>\n", "\n</tool_response>"
_SYSTEM_OF_TOOLS = "You are a helpful assistant with some tools."  # the example of Phi-4-mini's model card
_HINT = (
    "a call is {'id': '…', 'type': 'function', 'function': {'name': 'light', 'arguments': '{…}'}}, "
    "its result {'role': 'tool', 'tool_call_id': '…', 'content': '…'}"
)


@dataclass(frozen=True)
class TemplateInput:
    """What a template renders: messages, and tools where it is the template that tells of them."""

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] | None = None


def template_input(
    form: CallForm, messages: Sequence[Mapping[str, Any]], functions: Sequence[Function], *, has_system: bool
) -> TemplateInput:
    """`messages` of OpenAI's API and `functions` as a template takes them.

    `has_system` says whether the template renders a system message. Raises BadInputError for a call or a
    result that is none.
    """
    checked = [_checked(message, place) for place, message in enumerate(messages)]
    if form.told == "by the template":
        tools = tuple({"type": "function", "function": each.described} for each in functions)
        return TemplateInput(tuple(_for_template(form, message) for message in checked), tools or None)
    written = [_with_written_calls(form, message) for message in checked]
    if form.told == "in the system message's tools":
        return TemplateInput(tuple(_with_system_tools(written, functions)))
    written = _with_results_of_user(written)
    if functions:
        written = _with_description(form, written, functions, has_system=has_system)
    return TemplateInput(tuple(written))


def _checked(message: Mapping[str, Any], place: int) -> dict[str, Any]:
    """A message whose calls are a name and arguments each, or that is the result of one, a text."""
    if message.get("role") == "tool" and not isinstance(message.get("content"), str):
        raise BadInputError(
            f"messages[{place}]: expected text as content of a result, found "
            f"{type(message.get('content')).__name__}",
            hint=_HINT,
        )
    for call in message.get("tool_calls") or ():
        if not _is_call(call):
            raise BadInputError(
                f"messages[{place}].tool_calls: expected calls with a name and the JSON text of an object as "
                f"arguments, found {call!r:.80}",
                hint=_HINT,
            )
    return dict(message)


def _is_call(call: Any) -> bool:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        return False
    return isinstance(parsed_arguments(function.get("arguments", "")), Mapping)


def _for_template(form: CallForm, message: dict[str, Any]) -> dict[str, Any]:
    """A message with calls as templates read them: arguments are objects."""
    calls = message.get("tool_calls")
    if not calls:
        return {key: value for key, value in message.items() if key != "tool_calls"}
    parsed = [{**call, "function": {**call["function"], "arguments": _arguments(call)}} for call in calls]
    content = message.get("content")
    return {**message, "content": form.empty if content is None else content, "tool_calls": parsed}


def _arguments(call: Mapping[str, Any]) -> Any:
    return parsed_arguments(call["function"].get("arguments", ""))


def _with_written_calls(form: CallForm, message: dict[str, Any]) -> dict[str, Any]:
    """A message whose calls are part of its text, as the model wrote them."""
    calls = message.pop("tool_calls", None)
    if not calls:
        return message
    content = message.get("content") or ""
    parts: list[str | Own] = [content] if content else []
    opening = form.before
    for call in calls:
        arguments = call["function"].get("arguments", "")
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        parts += [Own(opening), call["function"]["name"], Own(form.within), text or "{}"]
        opening = form.between or form.before
    return {**message, "content": (*parts, Own(form.after))}


def _with_system_tools(messages: list[dict[str, Any]], functions: Sequence[Function]) -> list[dict[str, Any]]:
    """Messages with the functions' JSON beside the system message, where Phi-4-mini's template looks."""
    if not functions:
        return messages
    tools = json.dumps([each.described for each in functions], ensure_ascii=False)
    if messages and messages[0].get("role") == "system":
        return [{**messages[0], "tools": tools}, *messages[1:]]
    return [{"role": "system", "content": _SYSTEM_OF_TOOLS, "tools": tools}, *messages]


def _with_results_of_user(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with the results of calls in messages of the user: those that follow one another in one."""
    found: list[dict[str, Any]] = []
    after_result = False
    for message in messages:
        is_result = message.get("role") == "tool"
        if not is_result:
            found.append(message)
        else:
            parts = (Own(_OPEN_RESULT), message["content"], Own(_CLOSE_RESULT))
            if after_result:
                before = found.pop()["content"]
                parts = (*before, Own("\n"), *parts)
            found.append({"role": "user", "content": parts})
        after_result = is_result
    return found


def _with_description(
    form: CallForm, messages: list[dict[str, Any]], functions: Sequence[Function], *, has_system: bool
) -> list[dict[str, Any]]:
    """Messages in which the model is told of the functions, in the system message where it is read."""
    example = f"{form.before}NAME{form.within}{{…}}{form.after}"
    described: list[str | Own] = [Own(_BEFORE_FUNCTIONS)]
    for place, function in enumerate(functions):
        described += [Own("\n" if place else ""), json.dumps(function.described, ensure_ascii=False)]
    described.append(Own(_AFTER_FUNCTIONS.format(example=example)))
    role = "system" if has_system else "user"
    first = messages[0] if messages else {}
    if first.get("role") == role:
        content = _parts(first.get("content") or "")
        parts = (*content, Own("\n\n"), *described) if content else tuple(described)
        return [{**first, "content": parts}, *messages[1:]]
    return [{"role": role, "content": tuple(described)}, *messages]


def _parts(content: MessageText) -> tuple[str | Own, ...]:
    if isinstance(content, str):
        return (content,) if content else ()
    return content
