"""Calls of functions by one bundle's model: the form that it writes them in, and what holds it to that."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgephi.bundle.manifest import ChatFacts
from edgephi.chat.template import ChatTemplate
from edgephi.chat.tools.call_form import CallForm, call_form
from edgephi.chat.tools.call_reader import CallReader
from edgephi.chat.tools.conversation import TemplateInput, template_input
from edgephi.chat.tools.function import Calling
from edgephi.errors import BadInputError, UsageError
from edgephi.runtime.options import Options
from edgephi.runtime.text.rules import Rules
from edgephi.runtime.text.tokenizer_file import added_tokens, ordinary_tokens
from edgephi.runtime.tools.call_grammar import AddedTokens, call_grammar

_PROBE = "Is this system message read?"


class ToolCalling:
    """What a session needs for functions. Nothing is read or rendered before they are used."""

    def __init__(self, chat: ChatFacts, tokenizer_file: Path) -> None:
        self._chat = chat
        self._stop_token_ids = chat.stop_token_ids
        self._tokenizer_file = tokenizer_file

    def template_input(self, messages: Sequence[Mapping[str, Any]], calling: Calling) -> TemplateInput:
        """Messages, and what may be called, as the template takes them. Raises BadInputError.

        Where there is neither a function nor a call, that is as they are, and nothing is looked for.
        """
        if not calling.told and not any(map(_is_of_a_call, messages)):
            return TemplateInput(tuple(map(dict, messages)))
        form, has_system = self._learnt
        return template_input(form, messages, calling.told, has_system=has_system)

    def rules(self, calling: Calling, options: Options) -> Rules:
        """What holds an answer to calls that are whole, and its text to the options' JSON schema.

        Raises UsageError for options with other rules of their own.
        """
        if options.rules is not None and options.json_schema is None:
            raise UsageError(
                f"expected no rules but a JSON schema beside tools, found {options.rules.name}",
                hint="leave the tools out, or the rules",
            )
        return call_grammar(self.form, calling, self._tokens, options.json_schema)

    def reader(self, calling: Calling) -> CallReader:
        """What reads one answer: where a call must come, there is no text in it."""
        return CallReader(self.form, is_calling=calling.choice == "required")

    @property
    def form(self) -> CallForm:
        """How the model writes calls."""
        return self._learnt[0]

    @functools.cached_property
    def _learnt(self) -> tuple[CallForm, bool]:
        """How the model writes calls, and whether its template renders a system message.

        A stranger's template is rendered by a process, which ends when this is known.
        """
        template = ChatTemplate(self._chat.template, self._chat.variables)
        return call_form(template), _has_system(template)

    @functools.cached_property
    def spelled(self) -> dict[int, str]:
        """The texts of the form's special tokens, which are left out of an answer's text otherwise."""
        form = self.form
        written = (form.before, form.within, form.between or "", form.after)
        special = self._tokens.special
        return {id_: text for text, id_ in special.items() if any(text in each for each in written)}

    @functools.cached_property
    def _tokens(self) -> AddedTokens:
        """The tokenizer's added tokens, but for those that end an answer."""
        ordinary = ordinary_tokens(self._tokenizer_file)
        added = {
            text: id_
            for text, id_ in added_tokens(self._tokenizer_file).items()
            if id_ not in self._stop_token_ids
        }
        return AddedTokens(
            {text: id_ for text, id_ in added.items() if text not in ordinary},
            {text: id_ for text, id_ in added.items() if text in ordinary},
        )


def _has_system(template: ChatTemplate) -> bool:
    """Whether a template renders a system message, rather than leaving it out or refusing it."""
    try:
        rendered = template.render([{"role": "system", "content": _PROBE}, {"role": "user", "content": "a"}])
    except BadInputError:
        return False
    return _PROBE in rendered


def _is_of_a_call(message: Mapping[str, Any]) -> bool:
    """Whether a message has calls of functions, or is the result of one."""
    return message.get("role") == "tool" or bool(message.get("tool_calls"))
