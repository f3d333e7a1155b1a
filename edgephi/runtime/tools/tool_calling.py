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
        self._template = ChatTemplate(chat.template, chat.variables)
        self._stop_token_ids = chat.stop_token_ids
        self._tokenizer_file = tokenizer_file

    def template_input(self, messages: Sequence[Mapping[str, Any]], calling: Calling) -> TemplateInput:
        """Messages, and what may be called, as the template takes them. Raises BadInputError."""
        return template_input(self.form, messages, calling.told, has_system=self._has_system)

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

    @functools.cached_property
    def form(self) -> CallForm:
        """How the model writes calls."""
        return call_form(self._template)

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

    @functools.cached_property
    def _has_system(self) -> bool:
        """Whether the template renders a system message, rather than leaving it out or refusing it."""
        try:
            rendered = self._template.render(
                [{"role": "system", "content": _PROBE}, {"role": "user", "content": "a"}]
            )
        except BadInputError:
            return False
        return _PROBE in rendered
