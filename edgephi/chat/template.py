"""The chat template of a bundle or checkpoint: a program in Jinja that somebody else may have written.

Those of edgephi itself are known and do little. Any other one is rendered by Jinja's sandbox in a process of
its own, within limits of time, memory and length: an engine's own renderer could be kept busy for ever, or
crash, and this process with it.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgephi.chat.formats import CHAT_FORMATS
from edgephi.chat.rendering import render_chat
from edgephi.commands import pip_command
from edgephi.errors import BadBundleError, BadInputError, NotSupportedError
from edgephi.processes.limited_process import LimitedProcess, LimitReachedError

RENDER_SECONDS = 3.0
RENDER_MEMORY_BYTES = 256 << 20
LONGEST_TEMPLATE = 1 << 16  # letters
LONGEST_PARSED = 4096
"""Letters of a template that lies where the engines' own tools parse it as soon as they open a model, though
edgephi does not. Nobody can interrupt that: 16,000 letters can take minutes or all of the stack, so many less
than a second."""

_OWN = frozenset(chat.template for chat in CHAT_FORMATS)
_SMALL_TALK = [
    {"role": "system", "content": "You are a box."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Who are you?"},
]
_HINT = "do not use this bundle; build it from its checkpoint"


class ChatTemplate:
    """A template, and where it is rendered. Raises BadBundleError when it is too long for one.

    `variables` are the texts that it finds under names such as `bos_token`. `where` names it in messages.
    """

    def __init__(
        self, text: str, variables: Mapping[str, str] | None = None, *, where: str = "bundle.json: chat"
    ) -> None:
        if len(text) > LONGEST_TEMPLATE:
            raise BadBundleError(
                f"{where}: expected a template of at most {LONGEST_TEMPLATE} letters, found {len(text)}",
                hint=_HINT,
            )
        self.text = text
        self._variables = dict(variables or {})
        self._where = where
        self._process: LimitedProcess | None = None

    @property
    def is_own(self) -> bool:
        """Whether edgephi wrote it: then it is rendered here, without a process."""
        return self.text in _OWN

    @property
    def knows_tools(self) -> bool:
        """Whether it says anything of tools: one that does not could only leave them out."""
        return "tool" in self.text

    def check(self) -> None:
        """Render a small conversation with a stranger's template, and if it refuses that a single question.

        Raises as `render` does.
        """
        if self.is_own:
            return
        try:
            self.render(_SMALL_TALK)
        except BadInputError:  # some are for conversations without a system message
            try:
                self.render(_SMALL_TALK[1:2])
            except BadBundleError:
                raise  # says what is wrong with the template already
            except BadInputError as refusal:
                raise BadBundleError(
                    f"{self._where}: expected a template that renders the prompt, found: {refusal.message}",
                    hint=_HINT,
                ) from None

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Sequence[Any] | None = None,
        answer_follows: bool = True,
    ) -> str:
        """The prompt of a conversation, ready for the answer; or the text of a whole one, without that.

        Messages may have more than `role` and `content`, such as `tool_calls`: whatever is JSON. `tools` are
        JSON schemas of functions.

        Raises BadInputError for a conversation that the template refuses; BadBundleError when it cannot be
        rendered, or takes too much; NotSupportedError without Jinja.
        """
        self._check_jinja()
        if self.is_own:
            return render_chat(self.text, messages, tools=tools, answer_follows=answer_follows)
        question = {
            "template": self.text,
            "messages": list(messages),
            "variables": self._variables,
            "tools": tools,
            "answer_follows": answer_follows,
            "where": self._where,
        }
        try:
            reply = self._renderer().ask(json.dumps(question).encode(), RENDER_SECONDS)
        except LimitReachedError as cause:
            raise BadBundleError(
                f"{self._where}: expected a template that takes at most {cause.limit}, "
                "found one that takes more",
                hint=_HINT,
            ) from None
        return reply.decode(errors="surrogatepass")

    def _renderer(self) -> LimitedProcess:
        if self._process is None or not self._process.is_alive:
            self._process = LimitedProcess("edgephi.chat.rendering_process", memory_bytes=RENDER_MEMORY_BYTES)
        return self._process

    def _check_jinja(self) -> None:
        if importlib.util.find_spec("jinja2") is None:
            raise NotSupportedError(
                f"{self._where}: a template is rendered with jinja2, which is not installed",
                hint=pip_command("install", "jinja2>=3.1"),
            )
