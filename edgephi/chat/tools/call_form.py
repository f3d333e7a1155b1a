"""How a model writes the calls of functions: the texts around the name and the arguments of each.

A model that was trained to call functions has a form of its own, and its chat template knows it: it writes
the calls of earlier answers. So the form is read out of what the template makes of two calls. Phi-4-mini's
template writes none; its form is the one that its tokens are for. All other models are told of a form, that
of Hermes and Qwen, which more models have seen than any other.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from edgephi.chat.template import ChatTemplate
from edgephi.errors import BadBundleError, BadInputError

Told = Literal["by the template", "in the system message's tools", "in the system message"]


@dataclass(frozen=True)
class CallForm:
    """The calls of an answer: `before`, name, `within`, arguments (JSON), and `after` the last of them.

    Between two calls stands `between`, from the end of the arguments to the next name; None where only one
    call can be written. `told` says how a model gets to know the functions, `empty` what an answer with calls
    alone has as content.
    """

    before: str
    within: str
    between: str | None
    after: str
    told: Told
    empty: str | None = ""

    @property
    def mark(self) -> str:
        """How `before` begins: where this comes in an answer, a call has begun."""
        found = _MARK.match(self.before)
        return found[0] if found else self.before

    @property
    def is_bare(self) -> bool:
        """Whether nothing but the JSON itself tells a call from text: then one must open the answer."""
        return _BARE.match(self.before) is not None


TAUGHT_FORM = CallForm(
    before='<tool_call>\n{"name": "',
    within='", "arguments": ',
    between='}\n</tool_call>\n<tool_call>\n{"name": "',
    after="}\n</tool_call>",
    told="in the system message",
)
PHI_4_MINI_FORM = CallForm(
    before='<|tool_call|>[{"name": "',
    within='", "arguments": ',
    between='}, {"name": "',
    after="}]<|/tool_call|>",
    told="in the system message's tools",
)
"""Source: the model card of Phi-4-mini-instruct, and the tokens that its vocabulary has for it."""

# A token in angle or square brackets, or whatever stands before the JSON.
_MARK = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]|[^{\s]+")
_BARE = re.compile(r"\s*\[?\s*\{")
_SYSTEM_TOOLS = re.compile(r"""message(?:\.tools\b|\[['"]tools['"]\]|\.get\(['"]tools['"])""")
_NAMES = ("probe_of_one_call", "probe_of_another")
_IDS = ("pr0be0001", "pr0be0002")  # some templates want nine letters and digits
_ARGUMENTS = re.compile(r'\{\s*"probed"\s*:\s*"value"\s*\}')
_SPOKEN = "What is spoken."


def call_form(template: ChatTemplate) -> CallForm:
    """The form in which the model of a template writes calls. Raises as rendering it does."""
    if not template.knows_tools:
        return TAUGHT_FORM
    if _SYSTEM_TOOLS.search(template.text):
        return PHI_4_MINI_FORM
    for empty in (None, ""):
        form = _form_of_own_calls(template, empty)
        if form is not None:
            return form
    return TAUGHT_FORM


def _form_of_own_calls(template: ChatTemplate, empty: str | None) -> CallForm | None:
    """The form in which a template writes the calls of earlier answers; None when it writes none so.

    `empty` is the content of an answer without text.
    """
    question = {"role": "user", "content": "a"}
    tools = [_tool(name) for name in _NAMES]
    calls = [_call(*each) for each in zip(_NAMES, _IDS, strict=True)]

    def answered(answer: dict[str, Any]) -> str:
        answer = {"role": "assistant", **answer}
        return template.render([question, answer], tools=tools, answer_follows=False)

    try:
        asked = template.render([question], tools=tools)
        begun, _, turn_end = answered({"content": _SPOKEN}).rpartition(_SPOKEN)
        one = answered({"content": empty, "tool_calls": calls[:1]})
    except BadInputError:  # BadBundleError too: what it cannot render
        return None
    try:
        two = answered({"content": empty, "tool_calls": calls})
    except (BadInputError, BadBundleError):
        two = ""
    if not one.startswith(asked) or not one.endswith(turn_end):
        return None
    if not one.startswith(begun):  # some write in front of a text what they do not write in front of a call
        begun = asked
    written = _without_ids(one[len(begun) : len(one) - len(turn_end)]).lstrip()
    arguments = _ARGUMENTS.search(written)
    before, name, within = written[: arguments.start() if arguments else 0].partition(_NAMES[0])
    if arguments is None or not name or not before.strip() or not within:
        return None
    after = written[arguments.end() :]
    return CallForm(before, within, _between(two), after, "by the template", empty)


def _between(two: str) -> str | None:
    """What stands between two calls in a rendered conversation with both; None when they are not there."""
    first = two.rfind(_NAMES[0])
    arguments = _ARGUMENTS.search(two, first) if first >= 0 else None
    if arguments is None:
        return None
    between, name, _ = _without_ids(two[arguments.end() :]).partition(_NAMES[1])
    return between if name else None


def _without_ids(text: str) -> str:
    """A rendered text without the ids of its calls: those are given by us, not by the model."""
    for id_ in _IDS:
        text = re.sub(rf',\s*"id"\s*:\s*"{id_}"|"id"\s*:\s*"{id_}"\s*,\s*', "", text)
    return text


def _tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"probed": {"type": "string"}}}
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}


def _call(name: str, id_: str) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": {"probed": "value"}}}


def parsed_arguments(arguments: Any) -> Any:
    """The arguments of a call as templates want them: an object, also where they came as its JSON text."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
