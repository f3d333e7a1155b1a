"""A conversation as a checkpoint writes it: its messages in the form of its chat template."""

from collections.abc import Callable, Sequence

from edgephi.chat.template import ChatTemplate
from edgephi.checkpoint.chat_form import ChatForm
from edgephi.errors import BadInputError


def conversation_renderer(chat: ChatForm) -> Callable[[Sequence[dict[str, str]]], str]:
    """What writes whole conversations in this form; the last turn is the end of each.

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
