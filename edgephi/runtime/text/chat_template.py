"""The chat template of a bundle: a program in Jinja that somebody else may have written.

Those of edgephi's own builds are known and do little. Any other one is rendered by Jinja's sandbox in a
process of its own, within limits of time, memory and length: an engine's own renderer could be kept busy for
ever, or crash, and this process with it.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence

from edgephi.bundle.chat_formats import CHAT_FORMATS
from edgephi.commands import pip_command
from edgephi.errors import BadBundleError, NotSupportedError
from edgephi.processes.limited_process import LimitedProcess, LimitReachedError
from edgephi.runtime.text.checkpoint_text import render_chat

RENDER_SECONDS = 3.0
RENDER_MEMORY_BYTES = 256 << 20
LONGEST_TEMPLATE = 1 << 16  # letters

_OWN = frozenset(chat.template for chat in CHAT_FORMATS)
_SMALL_TALK = [
    {"role": "system", "content": "You are a box."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Who are you?"},
]
_HINT = "do not use this bundle; build it from its checkpoint"


class ChatTemplate:
    """A template, and where it is rendered. Raises BadBundleError when it is too long for one."""

    def __init__(self, text: str, *, where: str = "bundle.json: chat") -> None:
        if len(text) > LONGEST_TEMPLATE:
            raise BadBundleError(
                f"{where}: expected a template of at most {LONGEST_TEMPLATE} letters, found {len(text)}",
                hint=_HINT,
            )
        self.text = text
        self._where = where
        self._process: LimitedProcess | None = None

    @property
    def is_own(self) -> bool:
        """Whether edgephi wrote it: then an engine's renderer may have it."""
        return self.text in _OWN

    def check(self) -> None:
        """Render a small conversation with a stranger's template. Raises as `render` does."""
        if not self.is_own:
            self.render(_SMALL_TALK)

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt of a conversation, ready for the model's answer.

        Raises BadBundleError when it cannot be rendered, or takes too much; NotSupportedError without Jinja.
        """
        if self.is_own:
            return render_chat(self.text, messages)
        question = json.dumps({"template": self.text, "messages": list(messages)}).encode()
        try:
            return self._renderer().ask(question, RENDER_SECONDS).decode(errors="surrogatepass")
        except LimitReachedError as cause:
            raise BadBundleError(
                f"{self._where}: expected a template that takes at most {cause.limit}, "
                "found one that takes more",
                hint=_HINT,
            ) from None

    def _renderer(self) -> LimitedProcess:
        if self._process is None or not self._process.is_alive:
            if importlib.util.find_spec("jinja2") is None:
                raise NotSupportedError(
                    f"{self._where}: a template that is not edgephi's own is rendered with jinja2, "
                    "which is not installed",
                    hint=pip_command("install", "jinja2>=3.1"),
                )
            self._process = LimitedProcess(
                "edgephi.runtime.text.template_process", memory_bytes=RENDER_MEMORY_BYTES
            )
        return self._process
