"""A conversation as a checkpoint writes it: its messages in the form of its chat template."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from edgephi.chat.template import ChatTemplate
from edgephi.errors import BadInputError


class ChatTemplateFacts(Protocol):
    """A chat template and the texts that it finds under names, as a checkpoint or a bundle has them."""

    @property
    def template(self) -> str:
        """Its Jinja source."""

    @property
    def variables(self) -> Mapping[str, str]:
        """The texts by their names."""


def conversation_renderer(chat: ChatTemplateFacts) -> Callable[[Sequence[dict[str, str]]], str]:
    """What writes whole conversations by this template; the last turn is the end of each.

    Where a template refuses system messages, they are left out.
    """
    template = ChatTemplate(chat.template, chat.variables)

    def render(messages: Sequence[dict[str, str]]) -> str:
        try:
            return template.render(messages, answer_follows=False)
        except BadInputError:
            others = [message for message in messages if message["role"] != "system"]
            return template.render(others, answer_follows=False)

    return render
